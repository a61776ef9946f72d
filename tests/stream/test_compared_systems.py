"""The compared systems as files: what each has to say, and what none may do in a long stream."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from adastate.diffusion.noise import PlacedNoise, SampleNoise
from adastate.stream import StateCache, StreamSpec
from adastate.stream.rollout import rollout
from tests.support.cases import thinned
from tests.support.tiny import DOT, ROOT, Drawn, NetStudent, TaggedStudent, random_net, read_system, visible

SYSTEMS = sorted(path.stem for path in (ROOT / "conf/systems").glob("*.yaml"))
TEN = {
    "adastate", "causvid", "self_forcing", "causal_forcing", "longlive", "rolling_forcing", "reward_forcing",
    "infinity_rope", "memrope", "rolling_sink",
}  # fmt: skip


def test_all_systems_are_there() -> None:
    assert set(SYSTEMS) >= TEN
    assert {"causal_forcing_pp", "longlive_slot", "adastate_s3_w9", "adastate_s1_w9", "adastate_s1_w6"} <= set(SYSTEMS)
    assert read_system("adastate") == StreamSpec() == read_system("adastate_s1_w6")
    for name in (n for n in SYSTEMS if n.startswith("adastate_s")):
        state, window = map(int, re.findall(r"\d+", name))
        spec = read_system(name)
        assert (spec.state_frames, (spec.past_frames or 0) + spec.chunk_frames) == (state, window), name
        assert spec.window_frames == state + window, name


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_file_says_what_it_does_in_three_lines(system: str) -> None:
    lines = (ROOT / f"conf/systems/{system}.yaml").read_text().splitlines()
    comment = [line for line in lines if line.startswith("# ")]
    assert lines[: len(comment)] == comment and len(comment) >= 3
    assert any(source in " ".join(comment) for source in ("arXiv", "github"))


class Rows(TaggedStudent):
    """As TaggedStudent, for passes with several levels."""

    def __call__(self, x, t, memory):  # type: ignore[no-untyped-def]
        memory.read(0, lambda k, positions: k)
        rows = torch.zeros(1, x.shape[1], 1, 1)
        memory.stage(0, rows, rows)
        return torch.zeros_like(x)


@pytest.mark.parametrize("system", thinned(SYSTEMS, every=2))
@pytest.mark.parametrize("chunk_frames", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_memory_is_flat_over_400_chunks(system: str, chunk_frames: int) -> None:
    spec = read_system(system).rescaled(chunk_frames)
    cache = StateCache(spec)
    bytes_, recent, seen = [], [], []
    for _ in rollout(Rows(), Drawn(), cache, 400, (1, 1, 1)):
        assert cache.latest is not None
        bytes_.append(cache.bytes)
        seen.append(len(visible(cache.latest)))
        recent.append(0 if cache.recent is None else cache.recent.shape[1])
    if spec.restart_frames:  # its cache grows and starts anew, over and over
        period = (spec.restart_frames - spec.restart_overlap) // spec.chunk_frames
        assert bytes_[60 : 60 + period] == bytes_[60 + 10 * period : 60 + 11 * period]
        assert max(recent) <= spec.restart_frames
    else:
        assert len(set(bytes_[60:390])) == len(set(seen[60:380])) == len(set(recent[60:])) == 1


@pytest.mark.parametrize("system", SYSTEMS)
@torch.no_grad()
def test_relative_time_is_endless_and_absolute_time_ends_with_the_table(system: str) -> None:
    spec = replace(
        read_system(system).rescaled(1),
        denoising_steps=(1000,),
        first_chunk_denoising_steps=(),
        steps_are_unshifted=True,
    )
    student = NetStudent(random_net(replace(DOT, rope_max_frames=24)))

    def stream() -> int:
        cache = StateCache(spec)
        return sum(1 for _ in rollout(student, Drawn(), cache, 40, (DOT.channels, 2, 2)))

    if spec.position == "slot" or spec.restart_frames:
        assert stream() == 40
    else:
        with pytest.raises(ValueError, match="outside the 24 rows of the RoPE table: use slot positions for long"):
            stream()


def test_rescaling_keeps_proportions_and_loses_nothing() -> None:
    one = read_system("longlive").rescaled(1)
    assert (one.state_frames, one.past_frames, one.chunk_frames, one.switch.frames) == (1, 2, 1, 4)
    assert read_system("longlive").rescaled(3) == read_system("longlive")
    memrope = read_system("memrope").rescaled(1)
    assert (memrope.state_frames, memrope.past_frames) == (1, 1)
    assert read_system("self_forcing").rescaled(1).state_frames == 0


@torch.no_grad()
def test_placed_noise_is_the_same_for_every_system() -> None:
    """Whoever sees the same context makes the same content, with other step lists and with a state or without."""
    net, source = NetStudent(random_net(DOT)), PlacedNoise(3, [5])
    shape = (DOT.channels, 2, 2)

    def starts(spec: StreamSpec) -> list[torch.Tensor]:
        """What each chunk's content was denoised from."""
        net.passes.clear()
        list(rollout(net, source, StateCache(spec), 3, shape))
        return [x[:, -1] for x, t, memory, _ in net.passes if t[0, -1] == 1000]

    kinds = [replace(read_system(s).rescaled(1)) for s in ("self_forcing", "causvid", "longlive", "adastate")]
    every = [starts(spec) for spec in kinds]
    for other in every[1:]:
        assert all(torch.equal(a, b) for a, b in zip(every[0], other, strict=True))
    assert not torch.equal(every[0][0], every[0][1])
    rolling = starts(read_system("rolling_forcing").rescaled(1))
    assert all(torch.equal(a, b) for a, b in zip(every[0], rolling, strict=True))
    sink = starts(read_system("rolling_sink").rescaled(1))
    assert torch.equal(sink[0], sink[1]) and torch.equal(sink[0], every[0][0])
    assert not torch.equal(starts(StreamSpec(chunk_frames=1))[0], source.at(0, 0, "state").normal(1, *shape)[:, 0])


def test_placed_noise_is_no_plain_source() -> None:
    with pytest.raises(RuntimeError, match="drawn through `at`"):
        PlacedNoise(0, [0]).normal(1)
    assert isinstance(PlacedNoise(0, [0]).at(0, 0, "content"), SampleNoise)
