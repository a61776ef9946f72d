"""Sources: files and folders as others lay them out, every shard of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adastate.models.wan import DiT
from adastate.weights.files import WeightsError
from adastate.weights.sources import locate, open_source
from tests.support.weights_rig import folder, state

WAN = {"_class_name": "WanModel", "dim": 64}


def test_shards_are_one_source(tmp_path: Path, net: DiT) -> None:
    folder(tmp_path, state(net), WAN, shards=3)
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"another part of the pipeline")
    stored = open_source(tmp_path)
    assert stored.entries.keys() == net.state_dict().keys()
    assert stored.config == WAN and stored.path == tmp_path
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").unlink()
    assert len(locate(tmp_path)) == 3, "the numbers in their names tell as much as the index"


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, net: DiT, index: bool) -> None:
    folder(tmp_path, state(net), WAN, shards=3)
    (tmp_path / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    if not index:
        (tmp_path / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(WeightsError, match=r"lacks the shard diffusion_pytorch_model-00002-of-00003\.safetensors"):
        locate(tmp_path)


def test_one_shard_is_not_taken_for_all(tmp_path: Path, net: DiT) -> None:
    folder(tmp_path, state(net), WAN, shards=2)
    with pytest.raises(WeightsError, match="is one of 2 shards; give their folder"):
        locate(tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors")


def test_a_tensor_in_two_shards(tmp_path: Path, net: DiT) -> None:
    folder(tmp_path, state(net), WAN, shards=2)
    first, second = (tmp_path / f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2))
    second.write_bytes(first.read_bytes())
    with pytest.raises(WeightsError, match="another shard holds, too"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "has no weight_map"),
        ("[", "has no weight_map"),
        ("[" * 100_000, "has no weight_map"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "outside"),
        ('{"weight_map": {"a": 1}}', "outside its folder, 1"),
    ],
)
def test_a_broken_index(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=sentence):
        locate(tmp_path)


def test_pipelines_and_runs(tmp_path: Path, net: DiT) -> None:
    pipeline = tmp_path / "pipeline"
    folder(pipeline / "transformer", state(net), {"_class_name": "WanTransformer3DModel"})
    (pipeline / "model_index.json").write_text("{}")
    file = pipeline / "transformer" / "diffusion_pytorch_model.safetensors"
    assert locate(pipeline) == locate(file.parent) == locate(file) == [file]
    (pipeline / "transformer_2").mkdir()
    with pytest.raises(WeightsError, match="two networks, transformer and transformer_2"):
        locate(pipeline)
    run = tmp_path / "run"
    run.mkdir()
    (run / "student.safetensors").touch()
    (run / "init.safetensors").touch()
    assert locate(run) == [run / "student.safetensors"]


def test_a_folder_of_one_file_and_of_several(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    (tmp_path / "README.md").touch()
    assert locate(tmp_path) == [tmp_path / "model.pt"]
    torch.save({}, tmp_path / "lora.pt")
    with pytest.raises(
        WeightsError, match=r"holds README.md, lora.pt, model.pt: looked for student.safetensors, .*give"
    ):
        locate(tmp_path)


def test_an_empty_folder_and_none(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds nothing: looked for"):
        locate(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no weights at .*gone"):
        locate(tmp_path / "gone")


def test_a_config_of_something_else_is_not_read(tmp_path: Path, net: DiT) -> None:
    folder(tmp_path, state(net), {"_class_name": "AutoencoderKL"})
    assert open_source(tmp_path).config == {}
    (tmp_path / "config.json").write_text(json.dumps(WAN)[:-3])
    with pytest.raises(WeightsError, match=r"config\.json is not valid JSON"):
        open_source(tmp_path)
