"""What is streamed without a run folder: the bundled student, and weights of any origin at a size of conf/."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from adastate.config.schema import ConfigError
from adastate.config.world_words import unknown_words, vocabularies, vocabulary
from adastate.inference.generate_command import main
from adastate.inference.student_source import student_source
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.training.load_run import student_of
from adastate.weights import save_weights
from datamodules.worlds.flyover import flight
from datamodules.worlds.world_clips import DRAWN, world_prompts
from tests.support.tiny import ROOT, randomise

SMALL = Size(
    width=48,
    layers=2,
    heads=2,
    ffn=64,
    channels=16,
    text_width=32,
    text_tokens=12,
    time_embedding_dim=32,
    rope_max_frames=64,
)
"""Wan's geometry, shrunk."""

OVERRIDES = [
    *(f"--size.{name}={value}" for name, value in asdict(SMALL).items() if name not in ("patch", "eps", "actions")),
    "--latent_size=[8,8]",
    "--codec.class_path=adastate.encoders.TinyCodec",
    "--text.class_path=adastate.encoders.TinyText",
    "--text.init_args.tokens=12",
    "--text.init_args.width=32",
]
PROMPT = ["--prompt", "a red ball", "--seconds", "2"]


@pytest.fixture
def net() -> DiT:
    torch.manual_seed(0)
    return randomise(DiT(SMALL))


def pictures(video: Path) -> np.ndarray:
    with av.open(str(video)) as file:
        return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)]).astype(float)


def test_without_anything_the_student_that_ships_shows_a_video_and_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--seconds", "1.5"])
    told = capsys.readouterr()
    video = Path("runs/tiny/generated/000-a-slow-flight-north-east-over-a-green-meadow-a-white-ball-bo.mp4")
    assert str(video) in told.out.splitlines() and told.err == ""
    shown = pictures(video)
    assert len(shown) == 12 and shown.shape[2] > 2 * shown.shape[1], "the state is to the right"
    film, state = shown[:, :, : shown.shape[1]], shown[:, :, -shown.shape[1] :]
    green = film.mean((0, 1, 2))
    assert green[1] > green[0] and green[1] > green[2], "a meadow"
    assert state.std() > 10 and np.abs(state - film).mean() > 5


def test_the_student_that_ships_is_a_whole_one_of_its_size() -> None:
    source = student_source(None, None, "tiny", None, [])
    student = student_of(source.config, source.weights)
    assert student.spec.anchor == "state" and source.world == "plain"
    assert source.weights.stat().st_size < 3_000_000
    (chunk, *_) = student.stream([flight(7, 0).caption], 3)
    assert chunk.content.isfinite().all() and 0.5 < float(chunk.content.std()) < 1.5


@pytest.mark.parametrize("form", ["ours", "self_forcing"])
def test_weights_of_any_origin_stream_without_a_run_folder(
    form: str, net: DiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    if form == "ours":
        save_weights(net, Path("net.safetensors"))
        file = "net.safetensors"
    else:
        wrapped = {f"model._fsdp_wrapped_module.{name}": tensor for name, tensor in weights.items()}
        other = {f"model.{name}": torch.zeros_like(tensor) for name, tensor in weights.items()}
        torch.save({"generator": other, "generator_ema": wrapped, "critic": other}, "self_forcing_dmd.pt")
        file = "self_forcing_dmd.pt"
    words = ["--weights", file, "--size", "wan_1_3b", "--system", "self_forcing"]
    main([*words, *OVERRIDES, *PROMPT])
    (video,) = Path("runs/wan_1_3b/generated").glob("*.mp4")
    assert str(video) in capsys.readouterr().out
    source = student_source(None, Path(file), "wan_1_3b", "self_forcing", [*OVERRIDES, "--stream.past_frames=6"])
    student = student_of(source.config, source.weights)
    assert (student.spec.anchor, student.spec.past_frames, student.chunk_frames) == ("none", 6, 3)
    loaded = student.net.state_dict()
    assert student.net.patch_embedding.weight.dtype == torch.bfloat16, "the size trains in bf16-mixed"
    assert all(torch.equal(loaded[name], weights[name].to(loaded[name].dtype)) for name in weights)


def test_a_bundled_size_may_be_given_as_its_file(tmp_path: Path) -> None:
    by_name = student_source(None, None, "tiny", None, [])
    for size in ("conf/sizes/tiny.yaml", str(ROOT / "conf/sizes/tiny.yaml")):
        assert student_source(None, None, size, None, []) == by_name
    (tmp_path / "tiny.yaml").write_text((ROOT / "conf/sizes/tiny.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no student of the size .*tiny\.yaml is bundled"):
        student_source(None, None, str(tmp_path / "tiny.yaml"), None, [])  # of the same name, and the user's own


def test_a_finished_run_goes_before_the_bundled_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not student_source(None, None, None, None, []).run
    run = Path("runs/tiny")
    (run / "distill").mkdir(parents=True)
    (run / "distill" / "config.yaml").write_text("model: {init_args: {}}\n")
    assert not student_source(None, None, None, None, []).run, "it has no student yet"
    (run / "student.safetensors").touch()
    found = student_source(None, None, None, None, [])
    assert found.run and found.weights == run / "student.safetensors"
    assert not student_source(None, None, None, None, ["--stream.past_frames=2"]).run


@pytest.mark.parametrize(
    ("size", "words", "told"),
    [
        ("wan_1_3b", [], "no student of the size wan_1_3b is bundled: give --weights FILE"),
        ("wan_1_4b", [], "no size 'wan_1_4b': known are flight, tiny, wan22_5b, wan_14b, wan_1_3b"),
        (None, ["--stream.past_frame=3"], "did you mean 'past_frames'"),
        (None, ["--trainer.max_steps=3"], "'--trainer.max_steps=3' is for training"),
    ],
)
def test_mistakes_about_sizes_are_told(size: str | None, words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        student_source(None, None, size, None, words)


# ---- words


@pytest.mark.parametrize("kind", ["plain", "journey", "fog", "circuit", "mist", "flight"])
def test_the_vocabulary_of_a_world_is_that_of_its_captions(kind: str) -> None:
    captions = world_prompts(3, range(400), 7, kind).prompts  # type: ignore[arg-type]
    assert unknown_words(captions, kind) == []
    said = {word.strip(",").lower() for caption in captions for word in caption.split()}
    assert {word.lower() for word in vocabulary(kind)} - said == set(), "and no other word"
    assert kind in DRAWN or kind == "flight"


def test_a_strange_word_is_told_in_a_line_and_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--prompt", "a Slow flight over a purple meadow, two helicopters", "--seconds", "0.3"])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "'purple', 'two', 'helicopters': not among the words of the plain world" in told[0]
    assert len(list(Path("runs/tiny/generated").glob("*.mp4"))) == 1


def test_prompts_are_free_where_the_text_encoder_is_not_of_a_world() -> None:
    source = student_source(None, Path("builtin"), "wan_1_3b", None, [])
    assert source.world is None and unknown_words(["whatever"], None) == []


def test_help_and_documents_have_every_word() -> None:
    root = Path(__file__).parents[2]
    pages = {"plain": "docs/guide/generating.md", "flight": "docs/guide/flight.md"}
    for kind, page in pages.items():
        text = (root / page).read_text()
        for word in vocabulary(kind):
            assert f" {word} " in f" {' '.join(text.split())} ", (page, word)
            assert word in vocabularies().replace(".", "").split()


@pytest.mark.parametrize(
    ("words", "trained", "source"),
    [
        ([], False, ""),
        ([], True, ""),
        (["WORLD=flight"], False, "--size flight"),
        (["SIZE=flight"], False, "--size flight"),
        (["WORLD=flight"], True, '--run "runs/flight"'),
        (["RUN=runs/flight"], False, '--run "runs/flight"'),
    ],
)
def test_make_names_a_run_only_where_there_is_one(tmp_path: Path, words: list[str], trained: bool, source: str) -> None:
    root = Path(__file__).parents[2]
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tmp_path)
    if trained:
        (tmp_path / "runs/flight").mkdir(parents=True)
        (tmp_path / "runs/flight/student.safetensors").touch()
    for target in ("generate", "live"):
        made = subprocess.run(["make", "-n", target, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert made.stdout.splitlines()[-1].partition(target)[2].strip() == source
