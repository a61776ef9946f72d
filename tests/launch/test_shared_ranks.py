"""`adastate generate` and `adastate live` with two processes that share every pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.tiny import ROOT

pytestmark = pytest.mark.slow
PROMPT = "a slow flight north over a green meadow, a red ball bounces"
COMMAND = [sys.executable, "-m", "adastate.main"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def pictures(file: Path) -> np.ndarray:
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)])


def test_a_video_that_two_processes_make_is_that_of_one(tmp_path: Path) -> None:
    words = ["generate", "--prompt", PROMPT, "--seconds", "2", "--system", "adastate", "--states"]
    alone = run(*words, "--out", str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    shared = run(*words, "--out", str(tmp_path / "two"), "--sequence-parallel", "2")
    assert shared.returncode == 0, shared.stderr
    (one,), (two,) = (sorted((tmp_path / name).glob("*.mp4")) for name in ("one", "two"))
    a, b = pictures(one), pictures(two)
    assert a.shape == b.shape and np.abs(a - b).mean() < 1
    assert len(alone.stdout.splitlines()) == len(shared.stdout.splitlines()), "one of them speaks"


def test_a_degree_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    told = run("generate", "--prompt", PROMPT, "--out", str(tmp_path), "--sequence-parallel", "3")
    assert told.returncode == 1
    said = [line for line in told.stderr.splitlines() if line.startswith("adastate generate:")]
    assert said == [
        "adastate generate: sequence_parallel is 3, but 4 heads are not divisible by it: use one of 1, 2, 4"
    ]


PROGRAM = """
import sys
import numpy as np
import adastate
degree, out = int(sys.argv[1]), sys.argv[2]
model = adastate.load(system="adastate", device="cpu", sequence_parallel=degree)
session = model.session(sys.argv[3])
steps = [session.step(), session.step()]
session.prompt(sys.argv[4], kind="recache")
fork = session.fork()
steps += [session.step(), fork.step()]
session.rollback(1)
steps += [session.step()]
files = model.generate([sys.argv[3]], out, seconds=1)
assert all(file.stat().st_size for file in files)
with open(f"{out}/{__import__('os').environ.get('RANK', 0)}.npy", "wb") as file:
    np.save(file, np.stack([np.stack([step.video, step.state]) for step in steps[1:]]).astype(float))
"""


def test_a_program_of_two_processes_has_sessions_and_files_of_one(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    for start, degree in (([sys.executable], "1"), (torchrun, "2")):
        (tmp_path / degree).mkdir()
        words = [str(tmp_path / "program.py"), degree, str(tmp_path / degree), PROMPT, PROMPT.replace("red", "blue")]
        done = subprocess.run([*start, *words], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    one, first, second = (np.load(tmp_path / name) for name in ("1/0.npy", "2/0.npy", "2/1.npy"))
    assert np.array_equal(first, second) and np.abs(one - first).mean() < 1
    (a,), (b,) = (tmp_path.glob(f"{degree}/*.mp4") for degree in "12")
    assert np.abs(pictures(a) - pictures(b)).mean() < 1


def test_a_server_of_two_processes_serves_steers_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the server's parts are not installed")
    from adastate.live.client import LiveClient

    command = [*COMMAND, "live", "--port", "0", "--sequence-parallel", "2", "--unpaced"]
    server = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        line = next(said for said in server.stdout if "live: http" in said)
        url = line.split("live: ")[1].split()[0]
        with LiveClient(url).open(PROMPT, seed=3) as stream:
            shown = []
            for chunk in stream:
                shown.append(chunk.frames)
                if len(shown) == 3:
                    stream.ask("prompt", text="flying west over a blue ocean, fast", kind="recache", anchor="keep")
                if len(shown) == 6:
                    break
            assert len(stream.snapshot()) > 1000
        assert all(np.isfinite(frames).all() and frames.std() > 1 for frames in shown)
        server.send_signal(signal.SIGTERM)
        assert "SIGTERM received" in server.communicate(timeout=300)[0]
        assert server.returncode == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
