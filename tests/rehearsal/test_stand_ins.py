"""What stands in for a batch has its shapes, and takes no memory of the machine that rehearses."""

from __future__ import annotations

import pytest

from adastate.distributed import protocol
from adastate.models.video_network import Size
from adastate.rehearsal.stand_ins import BatchShape, without_files
from adastate.training import student


def test_a_batch_of_any_size_takes_no_memory() -> None:
    clips = BatchShape(4096, latents=(21, 16, 60, 104), video=(81, 3, 480, 832)).batch(8)
    paths = BatchShape(4096, latents=(21, 16, 60, 104), levels=(1000.0, 500.0, 0.0)).batch(0)
    assert clips.video is not None and clips.latents is not None and paths.trajectory is not None
    assert clips.video.shape == (4096, 81, 3, 480, 832) and paths.trajectory.shape == (4096, 3, 21, 16, 60, 104)
    assert all(x.untyped_storage().nbytes() <= 64 for x in (clips.video, clips.latents, paths.trajectory))
    assert clips.index.tolist()[:2] == [8, 9] and paths.latents is not None, "their clean past"


def test_networks_are_made_without_the_files_that_hold_them() -> None:
    size, gone = Size(16, 1, 2, 16, 4, text_width=16, text_tokens=4, time_embedding_dim=16), "nowhere/gone.safetensors"
    for module in (protocol, student):
        with without_files():
            assert module.load_network(size, gone).size == size
        with pytest.raises(FileNotFoundError, match="no weights at"):
            module.load_network(size, gone)
