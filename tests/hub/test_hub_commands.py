"""The page's own commands, each in a process of its own with nothing replaced: large files travel through Xet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub_stand_in import TOKEN, hub_stand_in
from tests.support.xet_store import XetStore

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_goes_to_the_hub_and_comes_back_through_xet(kept_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    with hub_stand_in() as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}

        def done(*words: str | Path) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, *map(str, words)]
            return subprocess.run(command, cwd=tmp_path, env={**kept, **own}, capture_output=True, text=True)

        login = "from huggingface_hub.cli.hf import main; main()"
        found = done("-c", login, "auth", "login", "--token", TOKEN)
        assert found.returncode == 0, found.stderr
        push = ("-m", "adastate", "weights", "push", kept_run, "anna/flyover")
        refused = done(*push)
        told = refused.stderr.splitlines()[-1]
        assert refused.returncode and told.startswith("adastate: the transfer broke off (Network error"), refused.stderr
        assert told.endswith(
            "nothing was published; run the same command again, with HF_HUB_DISABLE_XET=1 by plain HTTP"
        )
        hub.xet = XetStore(tmp_path / "store")
        found = done(*push)
        assert found.returncode == 0 and f"published at {hub.url}/anna/flyover/commit/" in found.stdout, found.stderr
        assert not [path for _, path in hub.asked if "/lfs/" in path], "nothing through Git LFS"
        found = done("-m", "adastate", "weights", "pull", "anna/flyover", "theirs")
        assert found.returncode == 0, found.stderr
        theirs = tmp_path / "theirs"
        assert (theirs / "model.safetensors").read_bytes() == (kept_run / "student.safetensors").read_bytes()
        assert (theirs / "README.md").read_bytes() == hub.files("anna/flyover")["README.md"]
        fetched = [path for method, path in hub.asked if method == "GET" and "/resolve/" in path]
        assert not [path for path in fetched if path.endswith("safetensors")], "its content came out of the store"
