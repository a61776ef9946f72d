"""Released students by name: each layout is read, each is told how it streams, and what is no student is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adastate.config.command_line import read_command
from adastate.config.systems import system_names
from adastate.models.wan import DiT
from adastate.weights import WeightsError, open_weights
from adastate.weights import geometry as geo
from adastate.weights.released import RELEASED, ReleasedStudent, note_of, student_at
from tests.support.tiny import ROOT, SIZE, random_net
from tests.support.weights_rig import State, diffusers_names, folder, lora, peft, prefixed, same, state

PLAIN = [student for student in RELEASED if not student.base]


def written(at: Path, student: ReleasedStudent, net: DiT) -> Path:
    """The student's file or folder below `at`, laid out as it is released; returns what one gives as --weights."""
    if student.file.endswith("/"):
        whole = at / student.repository.partition("/")[2]
        told = {**geo.diffusers_config(SIZE), "_class_name": "CausalWanTransformer3DModel"}
        folder(whole / student.file, diffusers_names(state(net)), told)
        return whole
    path = at / student.file
    path.parent.mkdir(parents=True, exist_ok=True)
    others = {"critic": prefixed(state(random_net(seed=1)), "model.")}
    if student.network == "generator_ema":
        others["generator"] = prefixed(state(random_net(seed=2)), "model.")
    torch.save({**others, student.network: prefixed(state(net), "model."), "step": 600}, path)
    return path


@pytest.mark.parametrize("student", PLAIN, ids=lambda student: student.name)
def test_each_is_read_as_it_is_released_and_told_how_it_streams(
    tmp_path: Path, net: DiT, student: ReleasedStudent
) -> None:
    found = open_weights(written(tmp_path, student, net), heads=4).require()
    same(found, net)
    assert found.report.key == student.network
    told = f"named as the student of {student.name}, which streams with --system {student.system} {student.options}"
    assert found.report.notes == (told.rstrip(),)
    assert student_at(found.path) == student


def test_longlive_s_adapters_go_over_their_base(tmp_path: Path, net: DiT) -> None:
    (tuned,) = (student for student in RELEASED if student.base)
    (below,) = (student for student in RELEASED if student.file == tuned.base)
    base = written(tmp_path, below, net)
    path = base.with_name(Path(tuned.file).name)
    torch.save({tuned.network: peft(lora(net)), "critic_lora": peft(lora(net, seed=9))}, path)
    found = open_weights(path, base=base, heads=4).require()
    assert found.report.key == tuned.network and found.report.notes[0] == note_of(base)[0]
    assert not torch.equal(found.entries["blocks.0.ffn.0.weight"].read(), state(net)["blocks.0.ffn.0.weight"])


def test_other_names_tell_nothing() -> None:
    for path in ("student.pt", "models/lora.pt", "causal_forcing.pt", "my/self_forcing_dmd.pt/x.pt"):
        assert note_of(Path(path)) == ()


def test_the_table_of_the_documents_is_this_one_and_its_commands_make_their_streams() -> None:
    text = (ROOT / "docs/reference/students.md").read_text()
    for student in RELEASED:
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {student.name} |"))
        assert f"`{student.repository}`" in row and f"`{student.file}`" in row
        assert not student.network or f" below `{student.network}`" in row
        weights = "longlive.safetensors" if student.base else Path(student.file).name
        weights = student.known_by[-1] if student.file.endswith("/") else weights
        assert student.start(weights) in text, student.name
        files = [f"--config=conf/{file}.yaml" for file in ("base", "sizes/wan_1_3b", "stages/distill")]
        options = [*files, "--system", student.system, *student.options.split()]
        stream = read_command(options)[0].variables["stream"]
        assert student.system in system_names() and stream["chunk_frames"] == (1 if student.options else 3)
        assert stream["past_frames"] + stream["chunk_frames"] <= 21


def wan(inputs: int, pictures: bool) -> State:
    made = state(random_net())
    shape = made["patch_embedding.weight"].shape
    weights = made | {"patch_embedding.weight": torch.zeros(shape[0], inputs, *shape[2:])}
    weights["head.head.weight"] = torch.zeros(16 * 4, shape[0])
    return weights | ({"img_emb.proj.1.weight": torch.zeros(4, 4)} if pictures else {})


@pytest.mark.parametrize(
    ("inputs", "pictures", "sentence"),
    [
        (36, True, r"is an image-to-video network of Wan2\.1-I2V's form \(it has img_emb\.proj\.1\.weight\)"),
        (36, False, r"is an image-to-video network of Wan2\.2-I2V-A14B's form \(it takes 36 channels and makes 16\)"),
        (32, False, r"is an image-to-video network \(it takes 32 channels and makes 16\)"),
    ],
)
def test_image_to_video_weights_are_refused_by_name(tmp_path: Path, inputs: int, pictures: bool, sentence: str) -> None:
    torch.save(wan(inputs, pictures), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=f"{sentence}; .* first picture through their cache"):
        open_weights(tmp_path / "x.pt")


def test_networks_of_sparse_attention_are_refused_by_name(tmp_path: Path, net: DiT) -> None:
    weights = diffusers_names(state(net)) | {"blocks.0.to_gate_compress.weight": torch.zeros(4, 4)}
    folder(tmp_path / "transformer", weights, geo.diffusers_config(SIZE))
    with pytest.raises(
        WeightsError, match=r"FastVideo's sparse attention, as FastWan2\.1 is \(it has blocks\.0\.to_gate"
    ):
        open_weights(tmp_path)
