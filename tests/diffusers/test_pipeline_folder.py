"""The folder of a pipeline: what diffusers loads, there and back."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[wan]'")

from diffusers import DiffusionPipeline

import adastate
from adastate.diffusers import StreamingWanPipeline
from adastate.main import main
from adastate.weights import BUILTIN, WeightsError, import_, open_weights
from adastate.weights.pipeline_folder import SOURCE, parts_of
from tests.support.wan_parts import write_parts

EXPORT = ["weights", "export", "tiny_student"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "tiny"
    main([*EXPORT, str(out), "--layout", "diffusers-pipeline"])
    return out


@pytest.mark.slow
def test_the_student_that_ships_streams_in_diffusers_as_here(folder: Path, tmp_path: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    assert isinstance(pipe, StreamingWanPipeline) and type(pipe) is not StreamingWanPipeline
    found = pipe("a red ball rolls left", seconds=1, seed=5, output_type="latent").frames
    with torch.no_grad():
        student = adastate.load().live.student.float()
        student.net.compute_dtype_name = student.ema.net.compute_dtype_name = None
        made = student.stream(["a red ball rolls left"], found.shape[2], 5)
        expected = torch.cat([chunk.content for chunk in made], 1).transpose(1, 2)
    assert float((found - expected).abs().max()) < 2e-5 * max(1.0, float(expected.abs().max()))
    pipe.save_pretrained(tmp_path / "again")
    again = DiffusionPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert torch.equal(again("a red ball rolls left", seconds=1, seed=5, output_type="latent").frames, found)
    assert StreamingWanPipeline.from_pretrained(folder).config.stream["anchor"] == "state"


def test_diffusers_loads_the_folder_and_gets_pictures_in_its_own_layout(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    parts = {name: told[1] for name, told in index.items() if isinstance(told, list) and told[0] == "diffusers"}
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    assert isinstance(pipe, StreamingWanPipeline)
    assert parts == {name: type(getattr(pipe, name)).__name__ for name in ("transformer", "scheduler")}
    told = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert told["_class_name"] == parts["scheduler"] and pipe.scheduler.config.shift == told["shift"]
    call = {"prompt": "a ball", "num_frames": 1, "seed": 0}
    assert pipe(**call).frames.shape == (1, 1, 32, 32, 3) and pipe(**call, output_type="pt").frames.shape[2] == 3


def test_weights_come_back_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    back = import_(open_weights(folder), tmp_path / "back.safetensors")
    own = open_weights("tiny_student")
    assert all(
        torch.equal(entry.read(), own.entries[name].read()) for name, entry in open_weights(back).entries.items()
    )
    assert (
        open_weights(back).report.stream == own.report.stream
        and open_weights(back).entries.keys() == own.entries.keys()
    )


def test_its_file_says_in_one_sentence_that_adastate_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adastate.diffusers", None)
    with pytest.raises(ImportError, match=r"^this pipeline streams with the package adastate .* not installed here"):
        exec(compile(SOURCE, "pipeline.py", "exec"), {})


def test_code_of_a_folder_runs_only_where_it_is_trusted(folder: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)


@pytest.mark.slow
def test_the_parts_of_another_pipeline_go_along(folder: Path, tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "wan")
    main([*EXPORT, str(tmp_path / "out"), "--layout", "diffusers-pipeline", "--parts", str(parts)])
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKLWan"] and "codec" not in index
    pipe = StreamingWanPipeline.from_pretrained(tmp_path / "out")
    assert pipe.vae.config.z_dim == 16 and pipe.text_encoder.config.d_model == 16
    again = parts_of(open_weights(tmp_path / "out"), tmp_path / "out", None)
    assert again.folder == tmp_path / "out", "a pipeline's own parts stay with it"


def test_a_folder_is_not_written_over_and_parts_are_looked_for(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="exists and is not empty"):
        main([*EXPORT, str(folder), "--layout", "diffusers-pipeline"])
    main([*EXPORT, str(folder), "--layout", "diffusers-pipeline", "--force"])
    (folder / "thesis.tex").touch()
    with pytest.raises(SystemExit, match=r"holds files that are not from an export, thesis\.tex"):
        main([*EXPORT, str(folder), "--layout", "diffusers-pipeline", "--force"])
    (folder / "thesis.tex").unlink()
    with pytest.raises(SystemExit, match="--parts belongs to --layout diffusers-pipeline"):
        main([*EXPORT, str(tmp_path / "x"), "--layout", "wan", "--parts", str(folder)])
    with pytest.raises(WeightsError, match="has none of vae, text_encoder, tokenizer"):
        parts_of(open_weights("tiny_student"), BUILTIN["tiny_student"], tmp_path)


@pytest.mark.slow
def test_fastvideo_s_folder_loads_as_it_is(folder: Path, tmp_path: Path) -> None:
    """Its transformer and its scheduler are classes of its own."""
    out = tmp_path / "SFWan2.1-T2V-1.3B-Diffusers"
    shutil.copytree(folder, out)
    for file, change in (
        ("transformer/config.json", {"_class_name": "CausalWanTransformer3DModel", "local_attn_size": -1}),
        ("scheduler/scheduler_config.json", {"_class_name": "SelfForcingFlowMatchScheduler", "extra_one_step": True}),
    ):
        (out / file).write_text(json.dumps({**json.loads((out / file).read_text()), **change}))
    index = json.loads((out / "model_index.json").read_text())
    index |= {"_class_name": "WanCausalDMDPipeline", "transformer": ["diffusers", "CausalWanTransformer3DModel"]}
    index |= {"scheduler": ["diffusers", "SelfForcingFlowMatchScheduler"], "stream": None}
    (out / "model_index.json").write_text(json.dumps(index))
    pipe = StreamingWanPipeline.from_pretrained(out, system="self_forcing")
    own = StreamingWanPipeline.from_pretrained(folder, stream=None, system="self_forcing")
    call = {"prompt": "a red ball", "seconds": 1, "seed": 0, "output_type": "latent"}
    assert torch.equal(pipe(**call).frames, own(**call).frames)
