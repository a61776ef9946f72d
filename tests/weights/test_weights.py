"""Weights in and out of files: the same again, or a sentence that says what is amiss."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.weights import geometry as geo
from adastate.weights import header_facts, load_weights, mismatch, save_weights
from tests.support.tiny import SIZE, random_net, spec
from tests.support.weights_rig import diffusers_names, folder, lora, peft, prefixed, state, wrapped


@pytest.fixture
def file(tmp_path: Path, net: DiT) -> Path:
    path = tmp_path / "deep" / "net.safetensors"
    save_weights(net, path)
    return path


def test_round_trip(file: Path, net: DiT) -> None:
    other = random_net(seed=5)
    assert not torch.equal(other.head.head.weight, net.head.head.weight)
    load_weights(other, str(file))
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert [p.name for p in file.parent.iterdir()] == [file.name], "nothing half-written is left behind"


def test_half_precision(tmp_path: Path, net: DiT) -> None:
    save_weights(net, tmp_path / "half.safetensors", half=True)
    other = random_net(seed=5)
    load_weights(other, str(tmp_path / "half.safetensors"))
    assert {v.dtype for v in other.state_dict().values()} == {torch.float32}
    assert torch.allclose(other.head.head.weight, net.head.head.weight, atol=1e-3)


def test_names_are_wan_s(file: Path) -> None:
    names = load_file(file).keys()
    assert {
        "patch_embedding.weight",
        "blocks.1.self_attn.norm_q.weight",
        "head.modulation",
        "time_projection.1.bias",
    } <= names


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 32}, "width 64 in the file, 32 here"),
        ({"layers": 3}, "layers 2 in the file, 3 here"),
        ({"heads": 2}, "heads 4 in the file, 2 here"),
        ({"patch": (1, 1, 1)}, r"patch \[1, 2, 2\] in the file, \[1, 1, 1\] here"),
    ],
)
def test_another_size_names_both(file: Path, change: dict[str, int], sentence: str) -> None:
    """Heads shape no weight: only the header tells."""
    with pytest.raises(ValueError, match=f"{file.name} holds a network of another size: .*{sentence}.*conf/sizes"):
        load_weights(DiT(replace(SIZE, **change)), str(file))


def test_what_shapes_no_weight_may_differ(file: Path, net: DiT) -> None:
    other = DiT(replace(SIZE, rope_max_frames=8192, text_tokens=9))
    load_weights(other, str(file))
    assert torch.equal(other.head.head.weight, net.head.head.weight)


def test_a_foreign_file_is_checked_tensor_by_tensor(tmp_path: Path, net: DiT) -> None:
    """Without our header, as Wan's own files come."""
    path, state = tmp_path / "foreign.safetensors", {k: v.clone() for k, v in net.state_dict().items()}
    save_file(state, path)
    load_weights(random_net(seed=5), str(path))
    state["head.head.weight"] = torch.zeros(3, 64)
    state["extra"] = state.pop("head.modulation")
    save_file(state, path)
    with pytest.raises(ValueError, match="does not fit") as error:
        load_weights(random_net(seed=5), str(path))
    for part in (
        "head.head.weight (3, 64) in the file, (16, 64) here",
        "1 missing (head.modulation)",
        "1 unexpected (extra)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    what = "is not a whole safetensors file .*: copy or train it again" if kept else "is empty: .* download it again"
    with pytest.raises(ValueError, match=rf"net.safetensors {what}"):
        load_weights(random_net(), str(file))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*gone.safetensors; give a .safetensors file or train"):
        load_weights(random_net(), str(tmp_path / "gone.safetensors"))


def test_a_failed_load_changes_nothing(file: Path) -> None:
    other = DiT(replace(SIZE, layers=3))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError, match="another size"):
        load_weights(other, str(file))
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


# ---- what others wrote


def test_any_origin_is_loaded_and_reported(tmp_path: Path, net: DiT, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "student.pt"
    torch.save({"generator": prefixed(state(random_net(seed=3)), "model."), "generator_ema": wrapped(state(net))}, path)
    other = random_net(seed=5)
    with caplog.at_level("INFO"):
        report = load_weights(other, str(path))
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert report.key == "generator_ema" and report.fit.whole
    assert "student.pt: a released student (generator_ema), other, 69 tensors matched" in caplog.text


@pytest.mark.parametrize("shards", [1, 3])
def test_diffusers_layout_is_loaded(tmp_path: Path, net: DiT, shards: int) -> None:
    folder(tmp_path / "transformer", diffusers_names(state(net)), geo.diffusers_config(SIZE), shards)
    other = random_net(seed=5)
    load_weights(other, str(tmp_path))
    assert torch.equal(other.head.head.weight, net.head.head.weight)


def test_weights_stay_float32_whatever_the_file_has(tmp_path: Path, net: DiT) -> None:
    torch.save({k: v.bfloat16() for k, v in state(net).items()}, tmp_path / "x.pt")
    other = random_net(seed=5)
    load_weights(other, str(tmp_path / "x.pt"))
    assert {v.dtype for v in other.state_dict().values()} == {torch.float32}
    assert torch.equal(other.head.head.weight, net.head.head.weight.bfloat16().float())
    assert all(p.requires_grad for p in other.parameters())


def test_another_size_is_told_without_a_header(tmp_path: Path, net: DiT) -> None:
    save_file({k: v.clone() for k, v in state(DiT(Size())).items()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"another size: width 128 in the file, 64 here, .*; conf/sizes/tiny.yaml is"):
        load_weights(net, str(tmp_path / "x.safetensors"))


def test_heads_are_compared_only_where_something_tells_them(tmp_path: Path) -> None:
    net = DiT(Size(heads=8))
    torch.save(state(net), tmp_path / "x.pt")
    load_weights(DiT(Size(heads=8)), str(tmp_path / "x.pt"))
    folder(tmp_path / "wan", state(net), geo.wan_config(Size()))
    with pytest.raises(ValueError, match="heads 4 in the file, 8 here"):
        load_weights(net, str(tmp_path / "wan"))


def test_a_lora_without_base_is_told(tmp_path: Path, net: DiT) -> None:
    torch.save({"generator_lora": peft(lora(net))}, tmp_path / "lora.pt")
    with pytest.raises(ValueError, match=r"lora.pt is a LoRA, not a network: give its base weights"):
        load_weights(net, str(tmp_path / "lora.pt"))


# ---- what is known about our own


def test_the_stream_travels_in_the_header(tmp_path: Path, net: DiT) -> None:
    path = tmp_path / "x.safetensors"
    save_weights(net, path, stream=asdict(spec()))
    assert header_facts(path) == {
        "size": json.loads(json.dumps(asdict(SIZE))),
        "stream": json.loads(json.dumps(asdict(spec()))),
    }
    assert mismatch(header_facts(path)["stream"], asdict(spec())) is None
    load_weights(random_net(seed=5), str(path))
    save_weights(net, path)
    assert header_facts(path).keys() == {"size"}


def test_facts_of_what_says_nothing(tmp_path: Path, net: DiT) -> None:
    torch.save(state(net), tmp_path / "x.pt")
    assert header_facts(tmp_path / "x.pt") == {}
    assert header_facts("builtin")["size"]["width"] == 128
    with pytest.raises(FileNotFoundError, match="no weights at"):
        header_facts(tmp_path / "gone")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, ""),
        ({"past_frames": 9, "denoising_steps": (1000,)}, ""),
        ({"anchor": "static"}, "trained with anchor: state, state_frames: 1 and are used with anchor: static"),
        ({"anchor": "none", "state_frames": 0}, "--stream.anchor=state --stream.state_frames=1"),
        ({"state_frames": 3}, "used with anchor: state, state_frames: 3, for which they were not trained"),
    ],
)
def test_weights_under_another_anchor(wanted: dict[str, object], told: str) -> None:
    trained = json.loads(json.dumps(asdict(spec())))
    sentence = mismatch(trained, asdict(replace(spec(), **wanted)))
    assert (sentence is None) == (not told)
    assert told in (sentence or "")
    assert mismatch({}, asdict(spec())) is None, "nothing known, nothing said"
