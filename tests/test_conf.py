"""Every YAML of conf/ is composed and built as the command line does it, and takes one step at a tiny shape.

A file that no rule of `layers` covers fails here: say what it is layered over.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from adastate.config.compose import build, compose
from adastate.encoders import TAEHV
from adastate.main import main
from adastate.models import backbones
from adastate.models.adapters import adapted, fold, is_adapter
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.training.student import Student
from adastate.weights import load_weights, save_weights
from datamodules.shards.shard_writer import ShardWriter, npy
from datamodules.tools.shards_command import main as make_shards
from datamodules.trajectories import TrajectoryWriter
from tests.encoders.test_wan_encoders import folder as encoders  # noqa: F401 - a fixture: a VAE and a text encoder, tiny
from tests.support.cases import thinned
from tests.support.ports import free_port
from tests.support.rig import fit
from tests.support.tiny import normal, randomise

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
FILES = sorted(str(p.relative_to(CONF).with_suffix("")) for p in CONF.rglob("*.yaml"))
STRATEGIES = [name for name in FILES if name.startswith("strategy/")]

SMALL = {"width": 16, "layers": 1, "heads": 2, "ffn": 16}
WAN = {**SMALL, "text_width": 16, "text_tokens": 8, "time_embedding_dim": 16}
WAN22 = {**WAN, "channels": 16, "backbone": "wan22"}
DISTILL = ["stages/distill", "stages/distill_tiny"]

FULL = {f"study/{world}_teacher" for world in ("journey", "fog", "circuit", "mist")}
"""What starts from the bundled weights, and so has their size."""

MORE = {"recipes/distill_rolling": ["rollout.frames=6", "rollout.rolling_frames=12"]}
"""What else chunks of 3 need at the tiny size."""

NO_LAYERS = {"study/arms", "study/claims"}
"""What `adastate study` reads on its own, and its tests check."""


def layers(name: str) -> list[str]:
    """The files that a user of conf/<name>.yaml composes, in order."""
    folder, _, file = name.rpartition("/")
    stage = file.partition("_")[0]
    over = {
        "": [],
        "sizes": ["stages/distill"],
        "systems": ["stages/distill"],
        "codecs": ["stages/distill"],
        "stages": [],
        "strategy": DISTILL,
        "data": [f"stages/{stage}"],
        "recipes": DISTILL if stage == "distill" else [f"stages/{stage}"],
        "study": DISTILL if stage == "distill" else [f"stages/{file.partition('_')[2]}"],
    }
    if folder not in over:
        pytest.fail(f"no rule says how conf/{name}.yaml is used: add one to {Path(__file__).name}")
    sizes = ["sizes/wan_1_3b"] if folder == "codecs" or name == "sizes/wan_14b" else []
    sizes = sizes if sizes or folder == "sizes" else ["sizes/tiny"]
    if folder in ("sizes", "systems", "codecs"):  # before the stage
        return ["base", *sizes, name, *over[folder]]
    below = {"distill_tiny": ["distill"], "distill_flight": ["distill", "distill_tiny"], "codec_flight": ["codec"]}
    below = [f"stages/{part}" for part in below.get(file, [])] if folder == "stages" else []
    system = ["systems/rolling_forcing"] if name == "recipes/distill_rolling" else []
    recipe = ["recipes/distill_causvid"] if name == "study/distill_causvid_clips" else []
    return list(dict.fromkeys(["base", *sizes, *system, *below, *over[folder], *recipe, name]))


class Place:
    """A folder with everything that stages find of others, and a step of any files of conf/ in it."""

    def __init__(self, folder: Path, wan: Path) -> None:
        self.folder, self.encoders = folder, wan
        torch.manual_seed(0)
        for name in ("teacher", "init", "ar"):
            save_weights(randomise(DiT(Size(**SMALL))), folder / f"{name}.safetensors")
        save_weights(randomise(DiT(Size(**WAN))), folder / "wan" / "init.safetensors")
        save_weights(randomise(backbones.build_network(Size(**WAN22))), folder / "wan" / "init22.safetensors")
        torch.save(TAEHV(None).state_dict(), folder / "taehv.pth")
        make_shards(["--world", "plain", "--clips", "2", "--out", str(folder / "video" / "shards")])
        clip, prompts = normal(7, 16, 8, 8).half(), ("a red ball", "snow")
        for run, content in ((folder, clip), (folder / "wan", normal(21, 16, 2, 2).half())):
            with ShardWriter(run / "shards", 4) as shards:
                for i, prompt in enumerate(prompts):
                    shards.add(f"{i}", {"latent.npy": npy(content), "txt": prompt.encode(), "json": b"{}"})
        levels = [1000.0, 937.5, 833.333, 625.0, 0.0]
        for name in ("trajectories", "causal_trajectories"):
            with TrajectoryWriter(folder / name, 4) as paths:
                for i, prompt in enumerate(prompts):
                    paths.add(f"{i}", torch.stack([clip] * len(levels)), levels, prompt)

    def compose(self, names: list[str], *overrides: str) -> dict[str, Any]:
        later = "sizes/wan22_5b" in names
        at_wan = later or "sizes/wan_1_3b" in names
        films = names[-1].startswith("data/")
        run = self.folder / "wan" if at_wan else self.folder / "video" if films else self.folder
        weights = run / f"init{'22' * later}.safetensors" if at_wan else self.folder / "teacher.safetensors"
        words = [
            f"run.dir={run}", "run.iterations=1", "training.batch=2",
            *(f"{net}.weights={weights}" for net in ("teacher", "critic")),
        ]  # fmt: skip
        if names[-1] not in FULL:
            sizes = WAN22 if later else WAN if at_wan else SMALL
            nets = ("size", "teacher_size", "critic_size")
            words += [f"{net}.{k}={v}" for net in nets for k, v in sizes.items()]
        if at_wan:
            words += ["latent_size=[2, 2]", f"text.init_args.pretrained={self.encoders}"]
            words.append(f"student.weights={weights}" if later else "")
            taehv = "codecs/taehv" in names
            words.append(f"codec.init_args.weights={self.folder / 'taehv.pth'}" if taehv else "")
            words.append("" if taehv else f"codec.init_args.pretrained={self.encoders}")
        if "sizes/flight" in names:  # with weights of the other tests: its own codec may not be bundled yet
            words += ["codec.init_args.weights=null", "codec.init_args.channels=16"]
            words += [f"{net}.channels=16" for net in ("size", "teacher_size", "critic_size")]
        files = [CONF / f"{name}.yaml" for name in names]
        return compose(files, [word for word in (*words, *overrides) if word]).lightning

    def step(self, names: list[str], *overrides: str) -> pl.LightningModule:
        """One training step of a batch of two, everything else as the files say."""
        config = self.compose(names, *overrides)
        model, trainer = config["model"], config["trainer"]
        distils = model["class_path"].endswith("Distill")
        if distils:
            model["init_args"]["global_batch"] = 2
            model["init_args"].setdefault("schedule", {})["critic_first"] = 0
        if "out" in model["init_args"]:  # what a stage writes is not what the next test reads
            model["init_args"]["out"] = str(self.folder / "out.safetensors")
        data = config["data"]["init_args"]
        data.update({k: 2 for k in ("batch", "clips") if k in data})
        strategy = trainer.get("strategy", "auto")
        if isinstance(strategy, dict):
            if "data_parallel_size" in strategy["init_args"]:
                strategy["init_args"]["data_parallel_size"] = 1
            strategy = build(strategy, pl.strategies.Strategy)
        module, source = build(model, pl.LightningModule), build(config["data"], pl.LightningDataModule)
        fit(
            module, source, max_steps=-1 if distils else 1, precision=trainer.get("precision", "32-true"),
            strategy=strategy, default_root_dir=str(self.folder),
        )  # fmt: skip
        return module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, encoders: Path) -> Place:  # noqa: F811
    return Place(tmp_path_factory.mktemp("conf"), encoders)


def test_the_base_runs_a_stage_through_the_command_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its callbacks, logger and checkpoints, which the other tests leave out."""
    monkeypatch.chdir(ROOT)
    files = [word for name in layers("recipes/teacher_latents") for word in ("--config", f"conf/{name}.yaml")]
    small = [f"--size.{k}={v}" for k, v in SMALL.items()]
    run = place.folder / "base"
    short = ["--training.batch=2", "--trainer.max_steps=1", "--preview.every=1000", "--preview.prompts=[snow]"]
    main(["fit", *files, *small, *short, f"--run.dir={run}", f"--data.shards={place.folder}/shards"])
    assert (run / "teacher" / "config.yaml").is_file() and (run / "teacher.safetensors").is_file()


@pytest.mark.parametrize(
    "name",
    thinned([n for n in FILES if n not in {"base", *NO_LAYERS, *STRATEGIES} and not n.startswith("systems/")], 3),
)
def test_every_file_trains(place: Place, name: str) -> None:
    module: Any = place.step(layers(name), *MORE.get(name, []))
    assert getattr(module, "iteration", 1) == 1


@pytest.mark.parametrize("words", thinned(["long_streaming lora", "sid lora"], every=2))
def test_recipes_go_over_one_another(place: Place, words: str) -> None:
    recipes = [f"recipes/distill_{word}" for word in words.split()]
    module: Any = place.step([*layers(recipes[0]), *recipes[1:]])
    changed = {
        name
        for network in module.trained.values()
        for name, p in network.net.named_parameters()
        if p.requires_grad and ".lora_B." in name and bool(p.any())
    }
    assert changed and module.iteration == 1, "B begins as zero"


@pytest.mark.parametrize("recipe", thinned(["latents lora", "latents"], every=2))
@pytest.mark.parametrize("size", ["wan_1_3b", "wan_14b"])
def test_wan_itself_is_fine_tuned_on_latents(place: Place, size: str, recipe: str) -> None:
    """In bfloat16 with recomputation, from weights in a file, whole or through adapters."""
    sizes = ["base", "sizes/wan_1_3b", f"sizes/{size}", "stages/teacher"]
    module: Any = place.step([*dict.fromkeys(sizes), *(f"recipes/teacher_{word}" for word in recipe.split())])
    assert module.iteration == 1 and module.net.checkpointing
    trained = [name for name, p in module.net.named_parameters() if p.requires_grad]
    assert all(map(is_adapter, trained)) == ("lora" in recipe)
    start = DiT(Size(**WAN))
    load_weights(start, str(place.folder / "wan" / "init.safetensors"))
    now = fold(module.net, module.net.state_dict())
    moved = {name for name, tensor in start.state_dict().items() if not torch.equal(now[name], tensor)}
    assert moved == ({f"{name}.weight" for name in adapted(module.net)} or set(now))


@pytest.mark.parametrize("name", thinned([n for n in FILES if n.startswith("systems/")], every=3))
def test_every_system_streams(place: Place, name: str) -> None:
    node = place.compose(layers(name), "rollout.frames=30")["model"]["init_args"]["student"]
    student = build(node, Student)
    frames = 2 * student.spec.chunk_frames
    made = torch.cat([chunk.content for chunk in student.stream(["snow"], frames)], 1)
    assert made.shape == (1, frames, 16, 8, 8) and made.isfinite().all()


@pytest.mark.slow
def test_every_strategy_trains(place: Place) -> None:
    """In a process of its own, for it is left as the head of a group of one."""
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu",
        "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip
    words = [sys.executable, "-m", "tests.test_conf", str(place.folder), str(place.encoders)]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [
        line.removeprefix("trained ") for line in done.stdout.splitlines() if line.startswith("trained ")
    ] == STRATEGIES


def test_what_is_no_layer_is_there_and_a_file_without_a_rule_is_seen() -> None:
    assert set(FILES) >= NO_LAYERS
    with pytest.raises(pytest.fail.Exception, match=r"no rule says how conf/other/x\.yaml is used"):
        layers("other/x")


if __name__ == "__main__":
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    here = Place.__new__(Place)
    here.folder, here.encoders = Path(sys.argv[1]), Path(sys.argv[2])
    for each in STRATEGIES:
        here.step(layers(each))
        print("trained", each, flush=True)
