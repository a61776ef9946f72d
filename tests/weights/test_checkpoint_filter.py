"""What checkpoints leave out, and have again when they are read."""

from __future__ import annotations

import torch

from adastate.weights.checkpoint_filter import restore_frozen, strip_frozen
from tests.support.rig import tiny_student

PARTS = ("codec.",)


def test_what_is_left_out_comes_back_from_the_module_that_reads() -> None:
    writer, reader = tiny_student(seed=1), tiny_student(seed=2)
    checkpoint = {"state_dict": writer.state_dict(), "epoch": 3}
    strip_frozen(writer, checkpoint, PARTS)
    left = checkpoint["state_dict"].keys()
    assert left == {k for k in writer.state_dict() if not k.startswith("codec.")} and checkpoint["epoch"] == 3
    restore_frozen(reader, checkpoint, PARTS)
    assert checkpoint["state_dict"].keys() == reader.state_dict().keys()
    for name, tensor in checkpoint["state_dict"].items():
        if isinstance(tensor, torch.Tensor):
            source = reader if name.startswith("codec.") else writer
            assert torch.equal(tensor, source.state_dict()[name]), name


def test_older_checkpoints_with_everything_in_them_keep_it() -> None:
    writer, reader = tiny_student(seed=1), tiny_student(seed=2)
    checkpoint = {"state_dict": writer.state_dict()}
    restore_frozen(reader, checkpoint, PARTS)
    name = next(name for name in writer.state_dict() if name.startswith("codec."))
    assert torch.equal(checkpoint["state_dict"][name], writer.state_dict()[name])
