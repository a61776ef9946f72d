"""`adastate weights`: the report on the screen, the files on the disk, mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adastate.main import main
from adastate.models.wan import DiT
from adastate.weights import header_facts, open_weights, save_weights
from tests.support.tiny import SIZE
from tests.support.weights_rig import lora, peft, prefixed, same, state


@pytest.fixture
def released(tmp_path: Path, net: DiT) -> Path:
    """A checkpoint as released students come."""
    nets = {"generator": state(DiT(SIZE)), "generator_ema": state(net)}
    torch.save({key: prefixed(weights, "model.") for key, weights in nets.items()}, tmp_path / "student.pt")
    return tmp_path / "student.pt"


def test_inspect_tells_what_it_found(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["weights", "inspect", str(released)])
    told = " ".join(capsys.readouterr().out.split())
    for part in (
        "origin a released student",
        "network taken generator_ema",
        "prefix stripped generator_ema.model.",
        "beside it generator (69)",
        "size other",
        "heads unknown: they shape no tensor, give --heads",
        "dtypes float32 (69)",
        "matched 69 missing 0 unexpected 0",
    ):
        assert part in told, told


def test_inspect_the_builtin(capsys: pytest.CaptureFixture[str]) -> None:
    main(["weights", "inspect", "builtin"])
    told = " ".join(capsys.readouterr().out.split())
    assert "adastate's own file" in told and "size tiny" in told and "parameters 1,226,944" in told


def test_inspect_a_lora_without_its_base(tmp_path: Path, net: DiT, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"generator_lora": peft(lora(net))}, tmp_path / "lora.pt")
    main(["weights", "inspect", str(tmp_path / "lora.pt")])
    told = " ".join(capsys.readouterr().out.split())
    assert "rank 3, 20 layers; it needs the weights that it changes: --base" in told and "matched" not in told


def test_import_then_export_from_a_run(
    tmp_path: Path, released: Path, net: DiT, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    own = run / "student.safetensors"
    main(["weights", "import", str(released), str(own), "--heads", "4"])
    assert header_facts(own)["size"]["heads"] == 4
    same(open_weights(own), net)
    out = tmp_path / "out"
    main(
        [
            "weights",
            "export",
            str(run),
            str(out),
            "--layout",
            "diffusers",
            "--dtype",
            "bfloat16",
            "--shard-gb",
            "0.0001",
        ]
    )
    assert open_weights(out).report.dtypes == {"bfloat16": 69}
    assert "config.json" in "".join(capsys.readouterr().out.split()), "a long path is wrapped"


def test_import_of_a_lora_with_its_base(tmp_path: Path, released: Path, net: DiT) -> None:
    factors = lora(net)
    torch.save({"generator_lora": peft(factors)}, tmp_path / "lora.pt")
    out = tmp_path / "x.safetensors"
    lora_file = str(tmp_path / "lora.pt")
    main(["weights", "import", lora_file, str(out), "--base", str(released), "--lora-alpha=6", "--heads=4"])
    a, b = factors["blocks.1.cross_attn.o"]
    expected = net.state_dict()["blocks.1.cross_attn.o.weight"] + b @ a * 2.0
    assert torch.equal(open_weights(out).entries["blocks.1.cross_attn.o.weight"].read(), expected)


def test_mistakes_are_answered_in_one_sentence(tmp_path: Path, released: Path, net: DiT) -> None:
    alien, own = tmp_path / "alien.pt", tmp_path / "own.safetensors"
    torch.save({"encoder.weight": torch.ones(1)}, alien)
    torch.save({"generator_lora": peft(lora(net))}, tmp_path / "lora.pt")
    save_weights(net, own)
    cases = [
        (["inspect", str(alien)], "alien.pt is of unknown origin: it holds encoder.weight; looked for"),
        (["inspect", str(tmp_path / "gone")], "no weights at .*gone"),
        (["inspect", str(released), "--key", "critic"], "no network 'critic'; it holds generator, generator_ema"),
        (["import", str(tmp_path / "lora.pt"), str(tmp_path / "x.safetensors")], "is a LoRA, not a network"),
        (["import", str(released), str(tmp_path / "x.safetensors")], "give --heads"),
        (["import", str(own), str(own)], "own.safetensors exists; give another name or --force"),
        (["export", str(own), str(released), "--layout", "wan"], "an export is a folder, and .* names a file: give"),
        (
            ["export", str(own), str(own / "out"), "--layout", "wan"],
            "is not a folder.; give another folder",
        ),
    ]
    for argv, sentence in cases:
        with pytest.raises(SystemExit, match=f"^adastate: .*{sentence}") as error:
            main(["weights", *argv])
        assert "\n" not in str(error.value)
