"""Geometry: what the tensors tell, what a config tells, and whose size it is."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.weights import geometry as geo
from adastate.weights.files import StoredTensor, WeightsError
from tests.support.tiny import SIZE

ROOT = Path(__file__).parents[2]


def entries(size: Size) -> dict[str, StoredTensor]:
    with torch.device("meta"):
        net = DiT(size)
    return {name: StoredTensor.of(tensor) for name, tensor in net.state_dict().items()}


def test_known_sizes_are_those_of_conf() -> None:
    found = {}
    for file in (ROOT / "conf/sizes").glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        size = content["size"] if "size" in content else content["teacher_size"]
        found[file.stem] = Size(**{**size, "actions": 0})
    assert found == geo.KNOWN


@pytest.mark.parametrize("name", list(geo.KNOWN))
def test_a_size_is_told_from_its_tensors(name: str) -> None:
    shown = geo.infer(entries(geo.KNOWN[name]))
    assert geo.size_name(shown) == name
    geometry, _ = geo.complete(shown, None)
    assert geo.size_of(geometry) == geo.KNOWN[name]


def test_all_shapes_without_memory() -> None:
    """14 billion weights are compared in no time, and no random number is drawn for them."""
    before = torch.get_rng_state()
    shapes = geo.shapes(geo.geometry_as_json(asdict(geo.KNOWN["wan_14b"])))
    assert sum(torch.Size(s).numel() for s in shapes.values()) == 14_288_491_584
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("size", "heads", "told"),
    [
        (SIZE, None, ""),
        (SIZE, 8, "as asked for"),
        (Size(width=256, heads=2, text_width=4096), None, "width / 128"),
        (Size(), None, "those of tiny"),
    ],
)
def test_heads_shape_no_tensor(size: Size, heads: int | None, told: str) -> None:
    geometry, whence = geo.complete(geo.infer(entries(size)), heads)
    assert told in whence and bool(told) == bool(whence)
    assert geometry.get("heads") == (heads or (size.heads if told else None))
    if not told:
        with pytest.raises(WeightsError, match=r"the number of attention heads .* --heads"):
            geo.size_of(geometry)


def test_heads_that_contradict_the_file() -> None:
    with pytest.raises(WeightsError, match="--heads is 8, but the source itself says 4"):
        geo.complete(asdict(SIZE), 8)


def test_a_tensor_that_tells_the_size_is_missing() -> None:
    some = entries(SIZE)
    del some["patch_embedding.weight"]
    assert geo.infer(some) == {}


@pytest.mark.parametrize("config", [geo.wan_config, geo.diffusers_config])
@pytest.mark.parametrize("size", [SIZE, geo.KNOWN["wan_1_3b"], replace(SIZE, patch=(1, 4, 2))])
def test_a_config_comes_back(config: Any, size: Size) -> None:
    there = geo.complete({**geo.infer(entries(size)), **geo.from_config(config(size))}, None)[0]
    text_tokens = size.text_tokens if config is geo.wan_config else there.get("text_tokens", 16)
    assert geo.size_of(there) == replace(size, text_tokens=text_tokens)


def test_wan_s_config_is_as_shipped() -> None:
    assert geo.wan_config(geo.KNOWN["wan_1_3b"]) == {
        "_class_name": "WanModel",
        "dim": 1536,
        "eps": 1e-06,
        "ffn_dim": 8960,
        "freq_dim": 256,
        "in_dim": 16,
        "model_type": "t2v",
        "num_heads": 12,
        "num_layers": 30,
        "out_dim": 16,
        "text_len": 512,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": "64"},
        {"heads": 0},
        {"heads": 3},
        {"layers": 10**5},
        {"patch": [1, 2]},
        {"patch": 5},
        {"patch": "abc"},
        {"patch": [2, 2, 2]},
        {"eps": 1},
    ],
)
def test_a_geometry_that_no_network_has(wrong: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="these weights"):
        geo.size_of({**asdict(SIZE), **wrong})


def test_the_difference_leaves_out_what_shapes_nothing() -> None:
    other = replace(SIZE, eps=1e-5, rope_max_frames=2000, text_tokens=9)
    assert geo.geometry_difference(asdict(SIZE), other) == ""
    assert geo.geometry_difference(asdict(SIZE), replace(SIZE, heads=2)) == "heads 4 in the file, 2 here"
    assert geo.geometry_difference({"width": 32}, SIZE) == "width 32 in the file, 64 here"


def test_actions_show_in_their_layer_alone() -> None:
    """And whoever can be steered is of the same size as whoever cannot."""
    steered = replace(geo.KNOWN["tiny"], actions=8)
    shown = geo.infer(entries(steered))
    assert shown["actions"] == 8 and geo.infer(entries(geo.KNOWN["tiny"]))["actions"] == 0
    assert geo.size_name(shown) == "tiny" and geo.size_of(geo.complete(shown, None)[0]) == steered
    assert geo.geometry_difference(asdict(steered), geo.KNOWN["tiny"]) == ""
    for wrong in (-1, 0.5, "8"):
        with pytest.raises(WeightsError, match="these weights are said to have actions"):
            geo.size_of({**asdict(SIZE), "actions": wrong})


def test_a_ti2v_network_of_another_size_is_told_from_its_channels_or_its_config() -> None:
    """And not taken as one of Wan2.1's."""
    shown = geo.infer(entries(Size(width=256, heads=2, layers=1, channels=48, text_width=4096)))
    assert geo.size_name(shown) == "other" and geo.complete(shown, None)[0]["backbone"] == "wan22"
    (note,) = geo.ti2v_note(shown)
    assert "48 latent channels are those of Wan2.2 TI2V" in note and "give a size of its own, --size FILE" in note
    here = geo.size_of(geo.complete(shown, None)[0])
    assert (
        geo.geometry_difference(asdict(here), replace(here, backbone="wan")) == "backbone wan22 in the file, wan here"
    )
    assert geo.ti2v_note(geo.infer(entries(geo.KNOWN["wan22_5b"]))) == ()
    small = replace(SIZE, backbone="wan22")
    assert geo.complete({**geo.infer(entries(small)), **geo.from_config(geo.wan_config(small))}, None)[0][
        "backbone"
    ] == ("wan22")
