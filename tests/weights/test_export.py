"""Export: what others load, and what comes back exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.models.wan import DiT
from adastate.weights import NetworkWeights, WeightsError, export, header_facts, import_, open_weights, save_weights
from adastate.weights import geometry as geo
from adastate.weights.exporting import split_into_files
from adastate.weights.files import StoredTensor
from tests.support.tiny import SHAPE, SIZE, normal, random_net
from tests.support.weights_rig import same, state, wrapped

STREAM = {"anchor": "state", "state_frames": 1, "denoising_steps": [1000, 500]}


@pytest.fixture
def own(tmp_path: Path, net: DiT) -> NetworkWeights:
    save_weights(net, tmp_path / "student.safetensors", stream=STREAM)
    return open_weights(tmp_path / "student.safetensors")


@pytest.mark.parametrize("layout", ["diffusers", "wan"])
@pytest.mark.parametrize("shard_gb", [10, 1e-4])
def test_there_and_back_exactly(tmp_path: Path, net: DiT, own: NetworkWeights, layout: Any, shard_gb: float) -> None:
    out = tmp_path / "out"
    files = export(own, out, layout, shard_gb=shard_gb)
    assert (len(files) > 3) == (shard_gb < 1)
    back = open_weights(out).require()
    same(back, net)
    assert geo.size_of(back.report.geometry) == SIZE and back.report.stream == STREAM == header_facts(out)["stream"]
    again = import_(back, tmp_path / "again.safetensors")
    assert again.read_bytes() == (tmp_path / "student.safetensors").read_bytes()
    assert header_facts(again) == header_facts(tmp_path / "student.safetensors")


@pytest.mark.parametrize("layout", ["diffusers", "wan"])
def test_a_foreign_checkpoint_there_and_back(tmp_path: Path, net: DiT, layout: Any) -> None:
    torch.save({"generator_ema": wrapped(state(net))}, tmp_path / "x.pt")
    export(open_weights(tmp_path / "x.pt", heads=4), tmp_path / "out", layout)
    same(open_weights(tmp_path / "out"), net)


@pytest.mark.parametrize("shard_gb", [10, 1e-4])
@torch.no_grad()
def test_diffusers_loads_it_and_computes_the_same(
    tmp_path: Path, net: DiT, own: NetworkWeights, shard_gb: float
) -> None:
    from diffusers import WanTransformer3DModel

    export(own, tmp_path / "out", "diffusers", shard_gb=shard_gb)
    theirs, told = WanTransformer3DModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told
    x, t = normal(2, 3, *SHAPE), torch.tensor([500.0, 900.0])
    text = normal(2, SIZE.text_tokens, SIZE.text_width, seed=1)
    expected = theirs.eval()(x.transpose(1, 2), t, text, return_dict=False)[0].transpose(1, 2)
    assert float((net(x, t, text) - expected).abs().max()) < 2e-5
    assert float((random_net(seed=1)(x, t, text) - expected).abs().max()) > 1e-2, "the check sees other weights"


@torch.no_grad()
def test_what_diffusers_saves_is_read(tmp_path: Path, net: DiT) -> None:
    """Its own writer, sharded, random weights of its own."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    config = {k: v for k, v in geo.diffusers_config(SIZE).items() if k != "_class_name"}
    theirs = WanTransformer3DModel(**config).eval()
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="100KB")
    assert (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    found = open_weights(tmp_path).require()
    assert geo.size_of(found.report.geometry).heads == SIZE.heads
    net.load_state_dict({name: entry.read() for name, entry in found.entries.items()})
    x, t, text = normal(1, 3, *SHAPE), torch.tensor([500.0]), normal(1, SIZE.text_tokens, SIZE.text_width, seed=1)
    expected = theirs(x.transpose(1, 2), t, text, return_dict=False)[0].transpose(1, 2)
    assert float((net(x, t, text) - expected).abs().max()) < 2e-5


def test_wan_s_folder_is_as_shipped(tmp_path: Path, net: DiT, own: NetworkWeights) -> None:
    export(own, tmp_path / "out", "wan")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["_class_name"] == "WanModel" and config["dim"] == 64 and config["model_type"] == "t2v"
    assert config["text_dim"] == 16, "Wan's code would take 4096 otherwise"


def test_the_index_names_every_weight_once(tmp_path: Path, net: DiT, own: NetworkWeights) -> None:
    export(own, tmp_path / "out", "wan", shard_gb=1e-4)
    index = json.loads((tmp_path / "out" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == net.state_dict().keys()
    assert index["metadata"]["total_size"] == 4 * sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype(tmp_path: Path, net: DiT, own: NetworkWeights, dtype: torch.dtype) -> None:
    export(own, tmp_path / "out", "diffusers", dtype)
    back = open_weights(tmp_path / "out")
    assert back.report.dtypes == {str(dtype).removeprefix("torch."): len(net.state_dict())}
    for name, tensor in net.state_dict().items():
        assert torch.equal(back.entries[name].read(), tensor.to(dtype)), name
    imported = open_weights(import_(back, tmp_path / "x.safetensors", torch.float32))
    assert imported.report.dtypes == {"float32": len(net.state_dict())}


def test_shards_are_no_larger_than_asked_for() -> None:
    entries = {str(i): StoredTensor.of(torch.zeros(n)) for i, n in enumerate((10, 10, 50, 5, 20))}
    assert [list(shard) for shard in split_into_files(entries, 100)] == [["0", "1"], ["2"], ["3", "4"]]


def test_nothing_is_written_over_unasked(tmp_path: Path, own: NetworkWeights) -> None:
    out = tmp_path / "out"
    export(own, out, "wan")
    with pytest.raises(WeightsError, match="exists and is not empty; give another folder or --force"):
        export(own, out, "diffusers")
    export(own, out, "diffusers", force=True)
    assert open_weights(out).report.origin == "diffusers' layout"
    (out / "thesis.tex").touch()
    with pytest.raises(
        WeightsError, match=r"holds files that are not from an export, thesis.tex; it is not overwritten"
    ):
        export(own, out, "wan", force=True)
    with pytest.raises(WeightsError, match="is a file; give a folder"):
        export(own, tmp_path / "student.safetensors", "wan", force=True)
    with pytest.raises(WeightsError, match="exists; give another name or --force"):
        import_(own, tmp_path / "student.safetensors")
    import_(own, tmp_path / "student.safetensors", force=True)
    with pytest.raises(WeightsError, match=r"does not end in \.safetensors"):
        import_(own, tmp_path / "student.pt")


def test_a_failed_export_leaves_nothing(tmp_path: Path, own: NetworkWeights) -> None:
    broken = dict(own.entries)

    def fail() -> torch.Tensor:
        raise OSError("the disk is full")

    broken["head.head.weight"] = StoredTensor(own.entries["head.head.weight"].shape, torch.float32, fail)
    with pytest.raises(OSError, match="disk"):
        export(NetworkWeights(own.path, broken, own.report), tmp_path / "out", "wan")
    assert [p.name for p in tmp_path.iterdir()] == ["student.safetensors"]


def test_what_is_not_whole_is_not_written(tmp_path: Path, net: DiT) -> None:
    weights = state(net)
    del weights["head.modulation"]
    torch.save(weights, tmp_path / "x.pt")
    for write in (lambda c: export(c, tmp_path / "out", "wan"), lambda c: import_(c, tmp_path / "x.safetensors")):
        with pytest.raises(WeightsError, match=r"not a whole network .* 1 missing \(head.modulation\)"):
            write(open_weights(tmp_path / "x.pt", heads=4))


def test_unknown_heads_are_asked_for(tmp_path: Path, net: DiT) -> None:
    torch.save(state(net), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="the number of attention heads"):
        export(open_weights(tmp_path / "x.pt"), tmp_path / "out", "diffusers")
    export(open_weights(tmp_path / "x.pt", heads=4), tmp_path / "out", "diffusers")


def test_no_size_of_shard(tmp_path: Path, own: NetworkWeights) -> None:
    with pytest.raises(WeightsError, match="shards of 0 GB hold nothing"):
        export(own, tmp_path / "out", "wan", shard_gb=0)
