"""The rehearsal reports no fault in a recipe of this project that a GPU would run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adastate.config.command_line import read_command
from adastate.config.overrides import override
from adastate.rehearsal.rehearse import rehearse

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")]

RECIPES = sorted(path.stem for path in Path("conf/recipes").glob("*.yaml"))
SHORT = ("--size.layers=3", "--training.batch=2")
OF_A_STAGE = {
    "distill": ("--model.global_batch=2", "--rollout.frames=3", "--rollout.long_frames=6", "--rollout.stream_frames=9"),
    "teacher": ("--training.teacher.batch=2",),
    "init": (),
}
MORE = {
    "distill_rolling": ("--config", "conf/systems/rolling_forcing.yaml", "--rollout.frames=6",
                        "--rollout.rolling_frames=12"),
}  # fmt: skip


def test_nothing_is_told_where_every_rank_holds_everything() -> None:
    """Under DDP, whose replicas are pretended."""
    files = [w for n in ("base", "sizes/tiny", "stages/distill") for w in ("--config", f"conf/{n}.yaml")]
    config, rest = read_command([*files, *SHORT, "--rollout.frames=3"])
    override(config, ["--model.global_batch=4", *rest], "adastate rehearse")
    assert rehearse(config, "h100", gpus=2).errors == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_is_told_of_a_recipe(recipe: str) -> None:
    stage = recipe.partition("_")[0]
    files = [
        "base",
        "sizes/tiny",
        f"stages/{stage}",
        *["stages/distill_tiny"] * (stage == "distill"),
        f"recipes/{recipe}",
    ]
    more = list(MORE.get(recipe, ()))
    before = [word for name in files[:2] for word in ("--config", f"conf/{name}.yaml")]
    after = [word for name in files[2:] for word in ("--config", f"conf/{name}.yaml")]
    system, more = (more[:2], more[2:]) if more[:1] == ["--config"] else ([], more)
    config, rest = read_command([*before, *system, *after, *SHORT, *OF_A_STAGE[stage], *more])
    override(config, rest, "adastate rehearse")
    errors = rehearse(config, "h100").errors
    assert not errors, errors
