"""Clips kept in memory: every one once in an epoch, excerpts at places that are drawn, the same again after a stop."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from adastate.encoders import TinyCodec
from adastate.types import Batch
from datamodules.world_data import KeptClips, WorldData
from datamodules.worlds.world_clips import world_batch
from tests.support.sample_videos import StubCodec


def take(data: WorldData, batches: int, skip: int = 0) -> list[Batch]:
    stream = data.batches()
    stream.load_state_dict({"position": skip * data.batch})
    return list(islice(iter(stream), batches))


def test_kept_flights_are_those_of_the_world_with_their_actions() -> None:
    made = world_batch(2, range(6), 6, "flight")
    assert made.video is not None and made.actions is not None
    (epoch,) = take(WorldData(video_frames=6, batch=6, seed=2, clips=6, kind="flight"), 1)
    assert epoch.video is not None and epoch.actions is not None and epoch.actions.shape == (6, 2, 8)
    found = set()
    for video, actions, prompt in zip(epoch.video, epoch.actions, epoch.prompts, strict=True):
        (row,) = [i for i in range(6) if (made.video[i] - video).abs().max() <= 1.01 / 127.5]
        assert torch.equal(made.actions[row], actions) and made.prompts[row] == prompt
        found.add(row)
    assert found == set(range(6))


def test_latents_are_kept_in_half_precision_with_their_actions() -> None:
    codec, made = TinyCodec("builtin"), world_batch(0, range(4), 6, "flight")
    kept = KeptClips(0, 6, 4, codec, "flight")
    assert made.video is not None and made.actions is not None
    assert kept.kept.dtype == torch.float16 and torch.equal(kept.kept, codec.encode(made.video).half())
    batch = kept.batch(range(4))
    assert batch.latents is not None and batch.actions is not None and batch.latents.dtype == torch.float32
    for latents, actions in zip(batch.latents, batch.actions, strict=True):
        assert any(
            torch.equal(latents, kept.kept[i].float()) and torch.equal(actions, made.actions[i]) for i in range(4)
        )


def test_excerpts_are_frames_of_their_clip_from_places_that_are_drawn() -> None:
    data = WorldData(video_frames=9, batch=4, seed=1, clips=8, kind="flight", excerpt=3)
    whole = {}
    for batch in take(WorldData(video_frames=9, batch=8, seed=1, clips=8, kind="flight"), 1):
        assert batch.video is not None
        whole = {i: clip for i, clip in enumerate(batch.video)}
    starts = []
    for batch in take(data, 8):
        assert batch.video is not None and batch.video.shape == (4, 3, 3, 64, 64) and batch.actions is None
        for excerpt in batch.video:
            places = [(i, s) for i, clip in whole.items() for s in range(7) if torch.equal(clip[s : s + 3], excerpt)]
            assert len(places) == 1
            starts.append(places[0])
    assert sorted(i for i, _ in starts) == sorted([*range(8)] * 4), "every clip once in an epoch"
    assert len({start for _, start in starts}) == 7, "at every place, sooner or later"


@pytest.mark.parametrize("excerpt", [None, 3])
def test_what_is_resumed_shows_the_very_clips_that_were_due(excerpt: int | None) -> None:
    def data() -> WorldData:
        return WorldData(video_frames=6, batch=4, clips=8, kind="flight", excerpt=excerpt)

    whole, resumed = take(data(), 7), take(data(), 3, skip=4)
    for a, b in zip(whole[4:], resumed, strict=True):
        assert a.video is not None and b.video is not None
        assert torch.equal(a.video, b.video) and a.prompts == b.prompts and a.index.tolist() == b.index.tolist()


def test_an_identity_tells_the_worlds_apart() -> None:
    told = [str(WorldData(kind=kind).identity()) for kind in ("plain", "journey", "fog", "circuit", "mist", "flight")]
    assert len(set(told)) == 6
    assert WorldData(kind="flight", clips=4).identity() == {
        "kind": "flight world", "seed": 0, "pictures": 21, "samples": 4
    }  # fmt: skip


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="set `clips`, their number"):
        WorldData(codec=StubCodec())
    with pytest.raises(ValueError, match="`excerpt` 30 is cut from kept video"):
        WorldData(clips=4, excerpt=30)
    with pytest.raises(ValueError, match="2 clips do not fill one global batch of 4"):
        WorldData(video_frames=3, batch=4, clips=2).batches()
