"""Whatever a disk is to blame for is known for that, in whatever words it comes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from adastate.runtime import disk, plain_data

resource = pytest.importorskip("resource")


def test_a_file_that_finds_no_room_for_its_last_byte_or_for_any_before_is_the_disk_s(tmp_path: Path) -> None:
    content = {str(i): torch.arange(100.0) for i in range(3)}
    torch.save(content, tmp_path / "whole")
    size, usual = (tmp_path / "whole").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1, 64, size // 3, size // 2, size - 500, size - 1):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
            with pytest.raises((OSError, RuntimeError)) as failed:
                plain_data.save_data(content, tmp_path / "cut")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert disk.is_fault(failed.value), failed.value
        assert "make room" in disk.reason(failed.value, tmp_path / "not there")
    with pytest.raises((OSError, RuntimeError)) as failed:
        plain_data.save_data(content, tmp_path / "not there" / "file")
    assert disk.is_fault(failed.value)


def test_a_mistake_of_the_program_is_not_the_disk_s() -> None:
    for failure in (RuntimeError("cannot pickle it"), ValueError("no space"), PermissionError(errno.EACCES, "denied")):
        assert not disk.is_fault(failure)


@pytest.mark.parametrize("name", ["ESTALE", "ETIMEDOUT", "ENOENT", "ENOTCONN", "EREMOTEIO", "EIO", "EROFS"])
def test_a_server_that_has_gone_is_a_fault_of_the_disk_and_making_room_does_not_help(tmp_path: Path, name: str) -> None:
    failure = OSError(getattr(errno, name), "gone")
    assert disk.is_fault(failure)
    assert disk.reason(failure, tmp_path).endswith("check that the disk is still there")
