from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader, IterableDataset

from adastate.types import Batch
from callbacks import Throughput
from callbacks.monitoring import throughput
from callbacks.previews import tags


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """In place of the clock that is read; it goes on when something sleeps by it."""

    class Clock:
        now = 0.0

        def sleep(self, seconds):
            self.now += seconds

    made = Clock()
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr(Slow, "clock", made)
    return made


class Slow(IterableDataset):
    """Takes `fetch` seconds a batch of 2 prompts, with or without latents."""

    clock = None

    def __init__(self, fetch, latents=None):
        self.fetch, self.latents = fetch, latents

    def __iter__(self):
        while True:
            self.clock.sleep(self.fetch)
            yield Batch(torch.arange(2), ["a", "b"], latents=self.latents)


@pytest.fixture
def counted(watched, clock):
    class Counted(watched):
        pause = 0.01

        def training_step(self, batch, batch_idx):
            clock.sleep(self.pause)
            return super().training_step(torch.zeros(2, 4), batch_idx)

    return Counted


def scalars(fit, events, module, data, *callbacks, **kwargs):
    _, run = fit(module, *callbacks, data=DataLoader(data, batch_size=None), **kwargs)
    return events(run)


def test_rates_and_waiting_are_those_of_the_clock(fit, counted, events):
    module = counted()
    module.iteration, module.pause = 10, 0.06
    found = scalars(fit, events, module, Slow(0.02), Throughput(every=4), steps=8)
    assert [s for s, _ in found[tags.ITERATIONS_PER_S]] == [14, 18], "at the module's own iteration"
    assert [rate for _, rate in found[tags.ITERATIONS_PER_S]] == pytest.approx([1 / 0.08] * 2)
    assert [frames for _, frames in found[tags.FRAMES_PER_S]] == pytest.approx([2 * module.rollout_frames / 0.08] * 2)
    assert [wait for _, wait in found[tags.DATA_WAIT]] == pytest.approx([0.25] * 2)
    assert 0.05 < found[tags.HOST_MEMORY][0][1] < 100
    assert tags.GPU_MEMORY not in found


def test_data_that_is_there_is_not_waited_for_even_if_other_callbacks_are_slow(fit, counted, events, clock):
    import lightning.pytorch as pl

    class Sleepy(pl.Callback):
        def on_train_batch_end(self, *_):
            clock.sleep(0.03)

    found = scalars(fit, events, counted(), Slow(0.0), Throughput(every=4), Sleepy(), steps=8)
    assert [wait for _, wait in found[tags.DATA_WAIT]] == [0, 0]
    assert found[tags.ITERATIONS_PER_S][-1][1] == pytest.approx(1 / 0.04), "which counts them"


def test_frames_are_those_of_the_latents_if_the_batch_brings_them(fit, counted, events):
    latents = torch.zeros(2, 5, 3, 8, 8)
    found = scalars(fit, events, counted(), Slow(0.0, latents), Throughput(every=2), steps=2)
    [(_, rate)], [(_, frames)] = found[tags.ITERATIONS_PER_S], found[tags.FRAMES_PER_S]
    assert frames == pytest.approx(rate * 2 * 5, rel=1e-4)


def test_a_profiler_of_the_users_own_is_left_alone(fit, counted, events):
    profiler = SimpleProfiler()
    found = scalars(fit, events, counted(), Slow(0.0), Throughput(every=2), steps=2, profiler=profiler)
    assert tags.DATA_WAIT not in found and tags.ITERATIONS_PER_S in found
    assert "run_training_batch" in profiler.recorded_durations


def test_a_pace_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="every=0"):
        Throughput(every=0)
