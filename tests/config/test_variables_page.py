"""What --help tells of the variables."""

from __future__ import annotations

from pathlib import Path

from adastate.config.compose import compose
from adastate.config.schema import VARIABLES
from adastate.config.variables_page import variables_page


def test_every_block_is_told_with_the_values_of_the_files_and_defaults_elsewhere() -> None:
    page = variables_page(compose([Path("conf/base.yaml"), Path("conf/sizes/tiny.yaml")]))
    lines = dict(line.strip().split(maxsplit=1) for line in page.splitlines() if line.startswith("  --"))
    assert {name.removeprefix("--").split(".")[0] for name in lines} == {*VARIABLES}
    assert lines["--size.width"] == "128" and lines["--stream.position"] == "slot"
    assert lines["--run.iterations"] == "null" and lines["--training.init.lr"] == "0.0007"
    assert lines["--codec.class_path"] == "adastate.encoders.TinyCodec"


def test_without_files_it_tells_what_there_is() -> None:
    page = variables_page(compose([]))
    assert "--run.dir" in page and "--stream.past_frames" in page and len(max(page.splitlines(), key=len)) < 130
