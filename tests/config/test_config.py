"""Composition of config files: merged, resolved, and every mistake told with its nearest neighbour, file and line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from adastate.config.command_line import is_variable, read_command
from adastate.config.compose import build, compose
from adastate.config.schema import ConfigError
from adastate.config.systems import read_system, system_names
from adastate.config.validate import check_words
from adastate.encoders import TinyText
from adastate.stream import StreamSpec
from adastate.training.critic import Critic
from tests.support.cases import thinned

CONF = Path(__file__).parents[2] / "conf"

BASE = """\
run: {dir: runs/a, seed: 3}
seed_everything: ${run.seed}
size: {width: 64, layers: 2}
trainer:
  max_steps: 10
  default_root_dir: ${run.dir}/critic
"""
STAGE = """\
size:
  layers: 3
model:
  class_path: adastate.training.critic.Critic
  init_args:
    size: ${size}
    timestep_shift: 3.0
trainer: {max_steps: 20}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return put


def test_files_are_merged_in_order_and_variables_resolved(write: Any) -> None:
    config = compose([write("base.yaml", BASE), write("stage.yaml", STAGE)])
    assert config.lightning == {
        "seed_everything": 3,
        "trainer": {"max_steps": 20, "default_root_dir": "runs/a/critic"},
        "model": {
            "class_path": "adastate.training.critic.Critic",
            "init_args": {"size": {"width": 64, "layers": 3}, "timestep_shift": 3.0},
        },
    }
    assert config.variables == {"run": {"dir": "runs/a", "seed": 3}, "size": {"width": 64, "layers": 3}}


def test_overrides_come_last_and_reach_everywhere(write: Any) -> None:
    config = compose(
        [write("base.yaml", BASE), write("stage.yaml", STAGE)],
        ["size.width=32", "run.dir=elsewhere", "size.patch=[1, 1, 1]"],
    )
    size = config.lightning["model"]["init_args"]["size"]
    assert size == {"width": 32, "layers": 3, "patch": [1, 1, 1]}
    assert config.lightning["trainer"]["default_root_dir"] == "elsewhere/critic"


def test_an_empty_file_is_no_mistake(write: Any) -> None:
    assert compose([write("empty.yaml", "# nothing\n"), write("base.yaml", BASE)]).lightning["seed_everything"] == 3


MISTAKES = {  # what stands in the stage: (what is written instead, the sentence; {f} is the file)
    "  layers: 3": ("  layer: 3", "{f}, line 2: size has no 'layer'; did you mean 'layers'?"),
    "    timestep_shift: 3.0": (
        "    timestep_shfit: 3.0",
        "{f}, line 7: adastate.training.critic.Critic has no 'timestep_shfit'; did you mean 'timestep_shift'?",
    ),
    "    size: ${size}": (
        "    size: {wdth: 64}",
        "{f}, line 6: size has no 'wdth'; did you mean 'width'?",
    ),
    "model:": ("modle:", "{f}, line 3: the top level has no 'modle'; did you mean 'model'?"),
    "trainer: {max_steps: 20}": (
        "trainer: {max_stps: 20}",
        "{f}, line 8: the trainer has no 'max_stps'; did you mean 'max_steps'?",
    ),
    "adastate.training.critic.Critic": (
        "adastate.training.critic.Critik",
        "{f}, line 4: there is no class adastate.training.critic.Critik",
    ),
    "class_path: adastate.training.critic.Critic": (
        "class_path: adastate.criticc.Critic",
        "{f}, line 4: there is no class adastate.criticc.Critic",
    ),
}


@pytest.mark.parametrize("right", MISTAKES)
def test_an_unknown_name_has_its_nearest_its_file_and_its_line(write: Any, right: str) -> None:
    wrong, sentence = MISTAKES[right]
    assert right in STAGE
    stage = write("stage.yaml", STAGE.replace(right, wrong, 1))
    with pytest.raises(ConfigError) as error:
        compose([write("base.yaml", BASE), stage])
    assert str(error.value).startswith(sentence.format(f=stage))


def test_a_name_near_to_nothing_lists_what_is_known(write: Any) -> None:
    with pytest.raises(ConfigError, match="size has no 'zzzzzz'; known are width, layers, heads"):
        compose([write("base.yaml", BASE)], ["size.zzzzzz=1"])


def test_a_mistake_in_an_override_names_the_override(write: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^--stream.past_frame=6: stream has no 'past_frame'; did you mean 'past_frames'"
    ):
        compose([write("base.yaml", BASE)], ["stream.past_frame=6"])


def test_a_nested_class_is_checked_too(write: Any) -> None:
    stage = write(
        "stage.yaml",
        "codec:\n  class_path: adastate.encoders.TinyCodec\n  init_args:\n    widht: 8\n",
    )
    with pytest.raises(
        ConfigError, match=r"stage.yaml, line 4: adastate.encoders.TinyCodec has no 'widht'; did you mean 'width'"
    ):
        compose([write("base.yaml", BASE), stage])


def test_an_unknown_variable_says_where_it_is_asked_for(write: Any) -> None:
    stage = write("stage.yaml", STAGE.replace("${size}", "${sise}"))
    with pytest.raises(ConfigError, match=r"stage.yaml, line 6: .*'sise' not found"):
        compose([write("base.yaml", BASE), stage])


def test_what_is_no_yaml_and_what_is_no_file(write: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bad.yaml, line 2: this is not valid YAML"):
        compose([write("bad.yaml", "a: 1\nb: c: d\n")])
    with pytest.raises(ConfigError, match=r"list.yaml holds no keys at its top level"):
        compose([write("list.yaml", "- 1\n- 2\n")])
    with pytest.raises(ConfigError, match=r"no config file .*gone.yaml; conf/ holds the ones"):
        compose([tmp_path / "gone.yaml"])


def test_a_command_line_is_split(write: Any) -> None:
    base, stage = write("base.yaml", BASE), write("stage.yaml", STAGE)
    argv = [
        "--config",
        str(base),
        f"--config={stage}",
        "--size.width=32",
        "--run.seed",
        "5",
        "--trainer.max_steps=1",
        "--print_config",
    ]
    config, rest = read_command(argv)
    assert rest == ["--trainer.max_steps=1", "--print_config"]
    assert config.lightning["seed_everything"] == 5
    assert config.variables["size"] == {"width": 32, "layers": 3}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (
            "--model.timestep_shfit=2",
            "adastate.training.critic.Critic has no 'timestep_shfit'; did you mean 'timestep_shift'?",
        ),
        (
            "--model.init_args.timestep_shfit=2",
            "adastate.training.critic.Critic has no 'timestep_shfit'; did you mean 'timestep_shift'?",
        ),
        ("--trainer.device=2", "the trainer has no 'device'; did you mean 'devices'?"),
        ("--sise.layers=2", "`adastate fit` has no 'sise'; did you mean 'size'?"),
    ],
)
def test_a_word_for_lightning_that_names_nothing(write: Any, word: str, told: str) -> None:
    config = compose([write("base.yaml", BASE), write("stage.yaml", STAGE)])
    with pytest.raises(ConfigError) as error:
        check_words(config, ["--ckpt_path", "auto", "--model.timestep_shift=2", word])
    assert str(error.value) == f"{word}: {told}"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("stream.anchor=sttic", "--stream.anchor=sttic: stream cannot have anchor 'sttic'; did you mean 'static'?"),
        ("size.width=wide", "--size.width=wide: size cannot have width 'wide'; it takes a whole number"),
        (
            "model.init_args.training_timestep_shift=x",
            "adastate.training.critic.Critic cannot have training_timestep_shift 'x'; it takes a number or null",
        ),
    ],
)
def test_a_value_that_cannot_be(write: Any, word: str, told: str) -> None:
    files = [write("base.yaml", BASE), write("stage.yaml", STAGE)]
    with pytest.raises(ConfigError) as error:
        compose(files, [word])
    assert str(error.value).endswith(told)
    compose(
        files,
        ["stream.anchor=static", "model.init_args.training_timestep_shift=1e-1", "model.init_args.timestep_shift=2"],
    )


RIGHT = {
    "--model.timestep_shift=2": "timestep_shift",
    "--model.init_args.size.layers=3": "size",
    "--model.class_path=adastate.training.critic.Critic": "model",
    "--trainer.callbacks+=callbacks.Progress": "callbacks",
    "--trainer.callbacks.every_s=1": "callbacks",
    "--trainer.devices": "devices",
    "--print_config": "print_config",
    "--ckpt_path=auto": "ckpt_path",
    "--data.batch=3": "data",
}
"""Words for Lightning, and the name in each of which a letter more is a mistake."""


def test_words_for_lightning_pass_and_with_a_letter_more_they_do_not(write: Any) -> None:
    config = compose([write("base.yaml", BASE), write("stage.yaml", STAGE)])
    check_words(config, [*RIGHT, "2"])
    for word, name in RIGHT.items():
        wrong = word.replace(name, f"{name}x", 1)
        with pytest.raises(ConfigError, match=f"has no '{name}x'; did you mean '{name}'"):
            check_words(config, [wrong])


def test_which_arguments_are_variables() -> None:
    assert [
        is_variable(a) for a in ("--stream.past_frames=6", "--size.width", "--model.lr=1", "stream.x", "--streams=1")
    ] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_build_makes_what_a_node_describes() -> None:
    text = build({"class_path": "adastate.encoders.TinyText", "init_args": {"tokens": 3, "width": 8}}, TinyText)
    assert isinstance(text, TinyText) and text.embed(["a b c d"]).shape == (1, 3, 8)
    size = {"width": 32, "layers": 1, "heads": 2, "ffn": 32}
    critic = build(
        {"class_path": "adastate.training.critic.Critic", "init_args": {"size": size, "timestep_shift": 3.0}}, Critic
    )
    assert critic.net.size.width == 32 and critic.timestep_shift == 3.0


OVER = {"wan_14b.yaml": "wan_1_3b.yaml", "distill_tiny.yaml": "distill.yaml", "distill_flight.yaml": "distill.yaml"}
"""Files that are layered over another one."""


@pytest.mark.parametrize("stage", sorted(p.name for p in (CONF / "stages").glob("*.yaml")))
@pytest.mark.parametrize("size", thinned(sorted(p.name for p in (CONF / "sizes").glob("*.yaml")), every=3))
def test_every_config_that_ships_composes(stage: str, size: str) -> None:
    layers = [CONF / "sizes" / OVER.get(size, size), CONF / "sizes" / size]
    layers += [CONF / "stages" / OVER.get(stage, stage), CONF / "stages" / stage]
    config = compose([CONF / "base.yaml", *layers])
    assert {"model", "data", "trainer"} <= config.lightning.keys()


def test_a_later_file_that_names_another_class_brings_its_own_arguments(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(
        "data:\n  class_path: datamodules.world_data.WorldData\n  init_args: {video_frames: 6, batch: 3}\n"
    )
    second.write_text("data:\n  class_path: datamodules.clips.ShardData\n  init_args: {shards: x}\n")
    assert compose([first, second]).lightning["data"]["init_args"] == {"shards": "x"}
    second.write_text("data:\n  class_path: datamodules.world_data.WorldData\n  init_args: {batch: 5}\n")
    assert compose([first, second]).lightning["data"]["init_args"] == {"video_frames": 6, "batch": 5}


def test_a_system_is_trained_with_the_chunk_of_the_size() -> None:
    tiny = [f"--config={CONF / name}" for name in ("base.yaml", "sizes/tiny.yaml")]
    config, rest = read_command([*tiny, "--system", "longlive", "--stream.past_frames=4", "--seed_everything=1"])
    assert rest == ["--seed_everything=1"]
    expected = {**asdict(read_system("longlive", 1).spec), "past_frames": 4}
    assert StreamSpec.of(config.variables["stream"]) == StreamSpec.of(expected)
    with pytest.raises(ConfigError, match="did you mean 'longlive'"):
        read_command([*tiny, "--system=longliv"])
    with pytest.raises(ConfigError, match="made for the size's chunk: give --config conf/sizes/"):
        read_command([tiny[0], "--system=longlive"])


@pytest.mark.parametrize("system", thinned(system_names(), every=3))
def test_every_system_can_be_trained_at_the_tiny_size(system: str) -> None:
    files = ("base.yaml", "sizes/tiny.yaml", "stages/init.yaml")
    config, _ = read_command([*(f"--config={CONF / name}" for name in files), "--system", system])
    student = config.lightning["model"]["init_args"]
    assert StreamSpec.of(student["stream"]).chunk_frames == 1
