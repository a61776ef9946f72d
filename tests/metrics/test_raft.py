"""RAFT where it is installed, here with a stand-in for torchvision's, and one line where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from adastate import metrics
from adastate.evaluation.evaluate import Truth, flow_or_why, measure_stretch
from adastate.metrics.raft import LEAST, NAME, PAIRS
from tests.support.synthetic import still


class StandIn(nn.Module):
    """In place of raft_small: the flow is the change of brightness, rightwards, so that every pair has one of its own.

    Attributes:
        seen: (pairs, height, width) of each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, int]] = []

    def forward(self, before: Tensor, after: Tensor) -> list[Tensor]:
        self.seen.append((before.shape[0], *before.shape[2:]))
        right = self.factor * (after - before).mean(1, keepdim=True)
        return [torch.full_like(right, torch.nan).expand(-1, 2, -1, -1), torch.cat([right, 0 * right], 1)]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """torchvision and, in torch's hub folder, weights whose only factor is 8."""
    net = StandIn()
    names = ("torchvision", "torchvision.models", "torchvision.models.optical_flow")
    modules = {name: ModuleType(name) for name in names}
    modules[names[-1]].raft_small = lambda: net  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save({"factor": torch.tensor(8.0)}, tmp_path / "checkpoints" / NAME)
    return net


def brightening(pictures: int) -> Tensor:
    """Two clips; the second grows brighter by 1/8, 2/8, ... from picture to picture, a shade everywhere the same."""
    steps = torch.stack([torch.zeros(pictures), torch.arange(pictures).cumsum(0) / 8])
    return steps[:, :, None, None, None].expand(-1, -1, 3, 32, 32).contiguous()


def test_every_pair_of_pictures_has_its_flow_at_the_size_of_the_video(installed: StandIn) -> None:
    flow = metrics.raft_flow()(brightening(PAIRS + 3))
    assert flow.shape == (2, PAIRS + 2, 2, 32, 32)
    scale = LEAST // 32  # what moves by 4 pixels in the enlarged pictures moves by 1
    assert torch.allclose(flow[1, :, 0].mean((1, 2)), torch.arange(1.0, PAIRS + 3) / scale) and flow[0].abs().max() == 0
    assert [n for n, *_ in installed.seen] == [PAIRS, PAIRS, 4] and {tuple(s[1:]) for s in installed.seen} == {
        (128,) * 2
    }


def test_large_pictures_are_not_enlarged(installed: StandIn) -> None:
    metrics.raft_flow()(torch.zeros(1, 2, 3, 136, 144))
    assert installed.seen == [(1, 136, 144)]


def test_evaluate_tells_flow_and_dynamics_with_it_and_nothing_without(installed: StandIn) -> None:
    truth, video = Truth(["a", "b"]), brightening(5)
    found = measure_stretch(video, 8, truth, metrics.raft_flow())
    assert found["optical_flow"] == found["dynamic_degree"] == pytest.approx((1 + 2 + 3 + 4) / 4 / 4 / 2)
    assert found.keys() - measure_stretch(video, 8, truth).keys() == {"optical_flow", "dynamic_degree"}


@pytest.mark.usefixtures("installed")
def test_weights_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / NAME).rename(tmp_path / "mine.pth")
    assert metrics.raft_flow(tmp_path / "mine.pth")(still(3)).abs().max() == 0
    with pytest.raises(metrics.NoRaft, match=rf"no {NAME} in .*checkpoints: put torchvision's there, or give --raft"):
        metrics.raft_flow()
    with pytest.raises(metrics.NoRaft, match=r"there is no .*yours\.pth"):
        metrics.raft_flow(tmp_path / "yours.pth")


@pytest.mark.usefixtures("installed")
def test_other_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for content in ({"other": torch.zeros(())}, {"factor": torch.zeros(3)}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(metrics.NoRaft, match=r"x\.pth does not hold weights of torchvision's raft_small"):
            metrics.raft_flow(path)
    torch.save({"factor": Path("a Python object")}, path)
    with pytest.raises(metrics.NoRaft, match=r"x\.pth is refused"):
        metrics.raft_flow(path)


def test_without_it_evaluate_says_why_in_a_line_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert flow_or_why(None, "cpu") is None
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"optical flow is left out: there is no {NAME} in {tmp_path}")


def test_a_torchvision_that_does_not_fit_its_torch_breaks_nothing(tmp_path: Path) -> None:
    """As one built for CUDA beside a torch for the processor: importing it raises what no one expects."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    torch.save({}, tmp_path / "x.pth")
    program = """
import sys
from pathlib import Path
from adastate import metrics
assert "torchvision" not in sys.modules
try:
    metrics.raft_flow(Path("x.pth"))
except metrics.NoRaft as why:
    print(why)
"""
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout == "torchvision does not import (operator torchvision::nms does not exist)\n", done.stderr
