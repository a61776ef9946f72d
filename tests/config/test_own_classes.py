"""Classes of the user's own, from the working directory, in place of the project's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from adastate.config.classes import constructor_parameters
from adastate.config.command_line import read_command
from adastate.config.compose import build
from adastate.config.schema import ConfigError
from adastate.config.validate import check_words
from adastate.main import main
from adastate.training.distill import Distill
from tests.support.rig import Prompts, changed, fit, weights
from tests.test_commands import CONFIG

MODULE = """
from typing import Any

from adastate.training.teacher import Teacher


class Louder(Teacher):
    def __init__(self, loudness: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Alone:
    def __init__(self, loudness: float = 1.0) -> None: ...
"""
OBJECTIVES = """
from collections.abc import Callable

from torch import Tensor

from adastate.diffusion.noise import SampleNoise
from adastate.training.objectives import DMD, Scores
from adastate.training.student_rollouts import StudentSample


class Halved(DMD):
    def __init__(self, share: float = 0.5, **kwargs) -> None:
        super().__init__(**kwargs)
        self.share = share

    def student_loss(
        self, sample: StudentSample, scores: Scores, noise: Callable[[str], SampleNoise]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, curves = super().student_loss(sample, scores, noise)
        return self.share * loss, curves


class MyLoss:
    scores_states = False

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def student_loss(
        self, sample: StudentSample, scores: Scores, noise: Callable[[str], SampleNoise]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        real, fake = scores.x0(sample.x.detach(), noise("score"))
        return self.weight * (sample.x - real.detach()).square().mean(), {"student/gap": (fake - real).detach().mean()}


class Unlike:
    def student_loss(self, sample: StudentSample) -> Tensor: ...
"""
SMALL = """
model:
  init_args:
    global_batch: 2
    iterations: 1
    schedule: {critic_first: 0}
    out: null
    student:
      init_args: {weights: null}
"""
STAGE = [*CONFIG, "--config", "conf/stages/teacher.yaml"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that only this test knows."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return name


def test_a_class_that_derives_keeps_the_arguments_and_has_its_own(own: str) -> None:
    plain, _ = read_command(STAGE)
    config, rest = read_command([*STAGE, f"--model.class_path={own}.Louder", "--model.init_args.loudness=2"])
    assert config.lightning["model"]["init_args"] == plain.lightning["model"]["init_args"]
    check_words(config, rest)


def test_another_class_loses_them(own: str) -> None:
    config, _ = read_command([*STAGE, "--model.class_path", f"{own}.Alone"])
    assert config.lightning["model"] == {"class_path": f"{own}.Alone"}


def test_a_later_file_may_name_it_too(own: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"model: {{class_path: {own}.Louder, init_args: {{loudness: 3}}}}\n")
    config, _ = read_command([*STAGE, "--config", str(tmp_path / "own.yaml")])
    assert config.lightning["model"]["init_args"]["loudness"] == 3
    assert config.lightning["model"]["init_args"]["text"]["class_path"] == "adastate.encoders.TinyText"


def test_misspelt_arguments_are_told_with_those_of_both_classes(own: str) -> None:
    for word, near in (("loudnes", "loudness"), ("optimiser", "optimizer")):
        config, rest = read_command([*STAGE, f"--model.class_path={own}.Louder", f"--model.init_args.{word}=2"])
        with pytest.raises(ConfigError, match=f"has no '{word}'; did you mean '{near}'"):
            check_words(config, rest)


def test_a_class_that_is_not_there(own: str) -> None:
    with pytest.raises(ConfigError, match=r"--model\.class_path=.*: there is no class .*Quieter"):
        read_command([*STAGE, f"--model.class_path={own}.Quieter"])
    with pytest.raises(SystemExit, match=r"callbacks\.yaml, line 1: there is no class nowhere\.Callback"):
        main(["fit", *STAGE, "--config", str(_callbacks(Path(sys.path[-1])))])


def _callbacks(folder: Path) -> Path:
    path = folder / "callbacks.yaml"
    path.write_text("trainer: {callbacks: [{class_path: nowhere.Callback}]}\n", encoding="utf-8")
    return path


@pytest.fixture
def objectives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"objectives_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OBJECTIVES, encoding="utf-8")
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return name


def distillation(objectives: str, cls: str, folder: Path, key: str = "model.init_args.objective") -> Distill:
    """The tiny distillation with an objective that is named on the command line."""
    words = [*CONFIG, "--config", "conf/stages/distill.yaml", "--config", "conf/stages/distill_tiny.yaml"]
    words += ["--config", str(folder / "small.yaml")]
    config, rest = read_command([*words, f"--{key}.class_path={objectives}.{cls}"])
    check_words(config, rest)
    made = build(config.lightning["model"], pl.LightningModule)
    assert isinstance(made, Distill) and type(made.objective).__name__ == cls
    return made


def test_an_objective_of_one_s_own_trains(objectives: str, tmp_path: Path) -> None:
    module = distillation(objectives, "MyLoss", tmp_path)
    before = weights(module.student.net)
    fit(module, Prompts(2))
    assert module.iteration == 1 and any(changed(module.student.net, before))


def test_an_objective_that_derives_keeps_the_stage_s_arguments(objectives: str, tmp_path: Path) -> None:
    objective: Any = distillation(objectives, "Halved", tmp_path).objective
    assert (objective.share, objective.horizon_weight) == (0.5, 2.0)
    assert objective.levels.timestep_range == (20.0, 980.0)


def test_init_args_may_be_left_out_of_the_key_of_a_class(objectives: str, tmp_path: Path) -> None:
    objective: Any = distillation(objectives, "Halved", tmp_path, "model.objective").objective
    assert (objective.share, objective.horizon_weight) == (0.5, 2.0)
    words = [*CONFIG, "--config", "conf/stages/distill.yaml", f"--model.objective.class_path={objectives}.Halved"]
    for key in ("model.objective", "model.init_args.objective.init_args"):
        config, rest = read_command([*words, f"--{key}.share=0.25"])
        check_words(config, rest)
        config, rest = read_command([*words, f"--{key}.shares=0.25"])
        with pytest.raises(ConfigError, match="Halved has no 'shares'; did you mean 'share'"):
            check_words(config, rest)


def test_an_objective_of_another_form_is_refused(objectives: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"Unlike cannot be the objective: it needs a method student_loss\(self, sample: StudentSample, scores",
    ):
        distillation(objectives, "Unlike", tmp_path)


def test_parameters_end_where_no_others_are_taken() -> None:
    class Base:
        def __init__(self, a: int, b: int = 0) -> None: ...

    class Open(Base):
        def __init__(self, c: int, **kwargs: int) -> None: ...

    class Closed(Open):
        def __init__(self, d: int) -> None: ...

    assert constructor_parameters(Open) == ["c", "a", "b"] and constructor_parameters(Closed) == ["d"]
