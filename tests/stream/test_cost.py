"""Law 8: what a chunk costs and what is kept of it is the same however long the stream; and whose memory it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from adastate.diffusion.noise import SampleNoise
from adastate.models.wan import DiT
from adastate.stream import StateCache, StreamSpec
from adastate.stream.rollout import rollout
from adastate.types import Chunk
from tests.support.stream_rig import content, stream
from tests.support.tiny import DOT, SHAPE, SIZE, Drawn, NetStudent, TaggedStudent, normal, random_net, spec, visible


def count(chunks: Iterator[Chunk]) -> int:
    """FLOPs of the next step. The counter knows attention on a CPU only where it is spelled out."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        next(chunks)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "variant",
    [
        {"denoising_steps": (1000,)},
        {"state_frames": 3, "past_frames": 6, "chunk_frames": 1, "denoising_steps": (1000,)},
    ],
    ids=["defaults", "F_s=3 W_p=6 F=1"],
)
@torch.no_grad()
def test_law_8_cost_is_constant_over_400_chunks(variant: dict[str, Any]) -> None:
    s = spec(**variant)
    student, cache = NetStudent(random_net(DOT)), StateCache(s)
    assert s.past_frames is not None
    flops, sizes, reads = set(), set(), set()
    chunks = rollout(student, Drawn(), cache, 400, (DOT.channels, 2, 2))
    next(chunks)
    for index in range(1, 400):  # a step is the clean pass of the chunk before, and the passes of this one
        student.passes.clear()
        if index in (12, 13, 40, 398, 399):
            flops.add(count(chunks))
        else:
            next(chunks)
        if index >= 12:
            sizes.add((cache.bytes, cache.tokens))
            reads.add(tuple(len(visible(view)) for _, _, view, _ in student.passes))
    kept = s.state_frames + s.past_frames
    assert sizes == {(kept * 2 * DOT.width * 4, kept)}, "keys and values of F_s + W_p frames, and nothing else"
    assert reads == {(kept, kept)}
    assert len(flops) == 1 and flops.pop() > 0


@torch.no_grad()
def test_law_8_fails_without_a_window() -> None:
    cache = StateCache(spec(past_frames=None, warmup="growing", denoising_steps=(1000,)))
    chunks = rollout(NetStudent(random_net(DOT)), Drawn(), cache, 6, (DOT.channels, 2, 2))
    flops, tokens = [], []
    for _ in range(6):
        flops.append(count(chunks))
        tokens.append(cache.tokens)
    assert tokens == [0, 4, 7, 10, 13, 16]
    assert flops[1] < flops[2] < flops[3] < flops[4] < flops[5], "the counter sees attention"


@torch.no_grad()
def test_cached_keys_are_rotated_once_for_all_passes_of_a_chunk() -> None:
    cache, turned = StateCache(spec()), []
    list(rollout(NetStudent(random_net(DOT)), Drawn(), cache, 2, (DOT.channels, 2, 2)))

    def rotate(k: Tensor, at: Any) -> Tensor:
        turned.append(at)
        return k

    (k, _), (same, _) = (cache.view(3, 1).read(0, rotate) or (None, None) for _ in range(2))
    assert k is same and turned == [(0, 1, 2, 3)], "those of the state and of the past together"


def test_the_cost_of_the_state_is_a_third_more_queries() -> None:
    """4 frames denoised for 3 shown, with the defaults."""
    tagged = TaggedStudent()
    stream(tagged, StateCache(StreamSpec()), 2)
    assert {len(view.query_positions) for view in tagged.views} == {4}
    assert len(tagged.views) == 2 * 5


def test_memory_holds_no_more_than_its_frames(student: NetStudent) -> None:
    """Evicted frames are let go: what is kept is a copy, not a view into larger tensors."""
    cache = StateCache(spec())
    stream(student, cache, 4)
    held = [t for f in (cache.anchor, cache.window) if f is not None for t in (*f.keys, *f.values)]
    assert sum(t.untyped_storage().nbytes() for t in held) == cache.bytes


def test_reset_forgets(student: NetStudent) -> None:
    cache = StateCache(spec())
    first = content(stream(student, cache, 3))
    assert not torch.allclose(first, content(stream(student, cache, 3)), atol=1e-3), "a used cache goes on"
    cache.reset()
    assert (cache.bytes, cache.tokens, cache.frames, cache.chunks) == (0, 0, 0, 0)
    assert torch.equal(first, content(stream(student, cache, 3)))


def test_a_stream_goes_on_where_it_stopped(student: NetStudent) -> None:
    """Two rollouts on one cache are one longer rollout."""
    whole = content(stream(student, StateCache(spec()), 4))
    cache, noise = StateCache(spec()), Drawn()
    with torch.no_grad():
        parts = [c for n in (1, 3) for c in rollout(student, noise, cache, n, SHAPE)]
    assert [c.start for c in parts] == [0, 3, 6, 9]
    assert torch.equal(whole, content(parts))


def test_rows_of_a_batch_do_not_mix(net: DiT) -> None:
    """A stream of two prompts is two streams."""
    text = normal(2, SIZE.text_tokens, SIZE.text_width, seed=9)

    def run(rows: list[int]) -> Tensor:
        noise = SampleNoise(1, 0, rows, "stream")
        with torch.no_grad():
            return content(list(rollout(NetStudent(net, text[rows]), noise, StateCache(spec()), 3, SHAPE)))

    assert torch.allclose(run([0, 1]), torch.cat([run([0]), run([1])]), atol=2e-5)
