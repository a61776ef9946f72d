import io
import re
from itertools import pairwise

import pytest
from lightning.pytorch.callbacks import Timer
from rich.console import Console

from callbacks import Progress
from callbacks.monitoring.progress import _clock


def lines(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if "iteration" in line]


def test_a_log_file_gets_whole_lines_with_iteration_loss_and_time_left(fit, watched, capsys):
    module = watched()
    module.iteration = 40
    fit(module, Progress(every_s=0.0), steps=4, enable_progress_bar=True)
    said = lines(capsys)
    assert len(said) == 5, "one an iteration as every_s is 0, and the last"
    assert re.fullmatch(
        r"watched  iteration 42 of \d+  loss [\d.e-]+  [\d.]+ (it/s|s/it)  0:0\d gone  0:\d\d left", said[1]
    )
    assert said[-1].startswith("watched  iteration 44 of 44") and said[-1].endswith("0:00 left")


def test_lines_are_seldom(fit, watched, capsys):
    fit(watched(), Progress(), steps=4, enable_progress_bar=True)
    assert len(lines(capsys)) == 2, "the first and the last within 30 s"


def test_a_terminal_gets_a_bar_on_one_line(fit, watched, capsys):
    progress, out = Progress(), io.StringIO()
    progress._console = Console(file=out, force_terminal=True, width=140)
    fit(watched(), progress, steps=4, enable_progress_bar=True)
    assert "iteration 4 of 4" in out.getvalue() and "━" in out.getvalue()
    assert lines(capsys) == []


def test_the_bar_is_taken_down_when_training_fails(fit, watched):
    class Failing(watched):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("boom")

    progress, out = Progress(), io.StringIO()
    progress._console = Console(file=out, force_terminal=True, width=140)
    with pytest.raises(RuntimeError, match="boom"):
        fit(Failing(), progress, enable_progress_bar=True)
    assert progress._bar is None and out.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


@pytest.mark.parametrize(
    "progress, trainer, share",
    [
        (Progress(), {"steps": 8}, 0.5),
        (Progress(), {"steps": 8, "iterations": 16}, 0.25),
        (Progress(total=32), {"steps": 8, "iterations": 16}, 0.125),
        (Progress(), {"steps": -1, "max_epochs": 2, "limit_train_batches": 4}, 0.5),
        (Progress(), {"steps": -1, "max_epochs": -1}, None),
    ],
)
def test_the_share_done_follows_the_nearest_limit(fit, watched, progress, trainer, share):
    found, iterations = [], trainer.pop("iterations", None)

    class Stopping(watched):
        def on_train_batch_end(self, *_):
            if self.iteration == 4:
                found.append(progress._share(self.trainer, self, 4))
                self.trainer.should_stop = True

    module = Stopping()
    if iterations is not None:
        module.iterations = iterations
    fit(module, progress, enable_progress_bar=True, **trainer)
    assert found[:1] == [share]


def test_losses_that_are_not_meant_for_the_bar_are_shown_if_nothing_else_is(fit, watched, capsys):
    class Quiet(watched):
        def log(self, name, value, prog_bar=False):
            super().log(f"critic/{name}", value)
            super().log("critic/gradient_norm", value)

    fit(Quiet(), Progress(every_s=0.0), steps=2, enable_progress_bar=True)
    said = lines(capsys)
    assert all("  critic/loss " in line and "norm" not in line for line in said)


def test_a_time_limit_counts_too(fit, watched):
    progress, found = Progress(), []

    class Asking(watched):
        def on_train_batch_end(self, *_):
            found.append(progress._share(self.trainer, self, self.iteration))

    fit(Asking(), progress, Timer(duration={"seconds": 4}), steps=1000, max_epochs=1, enable_progress_bar=True)
    assert found and all(0 < a <= b <= 1 for a, b in pairwise(found))


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (61.4, "1:01"), (754, "12:34"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert _clock(seconds) == text
