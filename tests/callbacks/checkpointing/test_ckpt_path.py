"""The words of a command line that say from where a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adastate.runtime import atomic_folder
from callbacks.checkpointing import changed_config
from callbacks.checkpointing.ckpt_path import resolve_ckpt_path
from callbacks.checkpointing.resume import FORMAT, STATE, versions

SAVING: dict[str, Any] = {"monitor": "gap"}


def write(run: Path, iteration: int, gap: float | None = None) -> Path:
    scratch = atomic_folder.begin(run / "checkpoints", f"{iteration:08d}")
    (scratch / STATE).write_bytes(b"state")
    told = {"iteration": iteration, "format": FORMAT, "versions": versions()}
    return atomic_folder.seal(scratch, told | ({} if gap is None else {"monitor": {"gap": gap}}))


def test_auto_and_last_are_the_newest_and_best_is_what_is_monitored(tmp_path: Path) -> None:
    first, second = write(tmp_path, 1, 0.5), write(tmp_path, 2, 0.7)
    every = tmp_path / "checkpoints"
    for word in ("auto", "last"):
        found = resolve_ckpt_path(["--a=b", "--ckpt_path", word], tmp_path, SAVING)
        assert found == ["--a=b", f"--ckpt_path={every}", "--weights_only=true"], "all ranks look together, later"
        assert f"--ckpt_path={second / STATE}" in resolve_ckpt_path([f"--ckpt_path={word}"], tmp_path, None)
    assert f"--ckpt_path={first / STATE}" in resolve_ckpt_path(["--ckpt_path=best"], tmp_path, SAVING)
    assert f"--ckpt_path={second / STATE}" in resolve_ckpt_path(
        ["--ckpt_path=best"], tmp_path, {**SAVING, "mode": "max"}
    )
    assert f"--ckpt_path={first / STATE}" in resolve_ckpt_path([f"--ckpt_path={first}"], tmp_path, SAVING)


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    assert resolve_ckpt_path(["--ckpt_path=auto"], tmp_path, SAVING) == []
    for words, saving, sentence in (
        (["--ckpt_path=last"], SAVING, "there is no checkpoint in .*; leave it out, or use auto"),
        (["--ckpt_path=best"], SAVING, "no checkpoint in .* has a value for gap; use last"),
        (["--ckpt_path=best"], {}, "set `monitor` of callbacks.Checkpoints to a logged metric, or use last"),
    ):
        with pytest.raises(ValueError, match=sentence):
            resolve_ckpt_path(words, tmp_path, saving)
    with pytest.raises(ValueError, match=r"looks in the run folder, but trainer\.default_root_dir is not"):
        resolve_ckpt_path(["--ckpt_path=last"], None, SAVING)


def test_a_used_folder_is_not_begun_in_unless_told_to(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with pytest.raises(ValueError, match=r"resume from them with --ckpt_path=auto, .* with --overwrite"):
        resolve_ckpt_path(["--a=b"], tmp_path, SAVING)
    with pytest.warns(UserWarning, match="the checkpoints of the earlier run are now in .*aside-1"):
        assert resolve_ckpt_path(["--overwrite", "--a=b"], tmp_path, SAVING) == ["--a=b"]
    assert resolve_ckpt_path(["--a=b"], tmp_path, SAVING) == ["--a=b"]
    assert [p.name for p in atomic_folder.folders(tmp_path / "checkpoints" / "aside-1")] == ["00000003"]


def test_other_folders_of_checkpoints_are_known(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", 3)
    with pytest.raises(ValueError, match="holds checkpoints"):
        resolve_ckpt_path([], tmp_path / "run", {"dirpath": str(tmp_path / "elsewhere" / "checkpoints")})


def test_keys_that_may_change_can_be_named_one_flag_after_the_other(tmp_path: Path) -> None:
    words = ["--allow_change=stream,seed", "--a=b", "--allow_change", "data.shards"]
    assert resolve_ckpt_path(words, tmp_path, SAVING) == ["--a=b"]
    assert changed_config.allowed == ["stream", "seed", "data.shards"]
    assert resolve_ckpt_path([], tmp_path, SAVING) == [] and changed_config.allowed == []
