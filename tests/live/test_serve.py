"""`adastate live` itself: mistakes before torch, one line at the end, and real sessions behind the socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server's parts are not installed")

from adastate.inference.student_source import student_source
from adastate.live.client import LiveClient, LiveError, LiveStream
from adastate.live.messages import Limits
from adastate.live.model import LiveModel
from tests.live.test_session_door import take
from tests.support.live_server import serving

PROMPTS = "a slow flight north over a green meadow, a red ball bounces", "flying west over a blue ocean, fast"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def model() -> LiveModel:
    """The bundled student."""
    return LiveModel.of(student_source(None, None, "tiny", None, []))


@pytest.fixture
def live(model: LiveModel) -> Iterator[LiveClient]:
    limits = Limits(detached_s=0.4, messages_per_s=1000)
    with serving(model, limits) as (url, _):
        yield LiveClient(url)


def test_a_link_s_script_replays_bit_for_bit_and_so_does_a_session_that_was_put_aside(live: LiveClient) -> None:
    with live.open(PROMPTS[0], seed=5, system="adastate") as stream:
        shown = {c.told["chunk"]: c.frames for c in take(stream, 3)}
        stream.ask("prompt", text=PROMPTS[1], kind="recache", anchor="keep")
        shown |= {c.told["chunk"]: c.frames for c in take(stream, 4)}
        stream.drop()
        while live.get(f"/v1/sessions/{stream.id}").get("chunk") and not aside(stream):
            pass
        stream.connect()
        assert stream.ready["resumed"]
        shown |= {c.told["chunk"]: c.frames for c in take(stream, 4)}
        link = stream.ask("script")["script"]
    assert link["replays"] and [entry["kind"] for entry in link["script"]] == ["prompt"]
    more = {name: link[name] for name in ("seed", "system", "script")}
    with live.open(link["prompt"], **more) as again:
        for chunk in take(again, len(shown)):
            assert np.array_equal(chunk.frames, shown[chunk.told["chunk"]])


def aside(stream: LiveStream) -> bool:
    """Whether the server keeps its snapshot alone."""
    try:
        stream.client.get(f"/v1/sessions/{stream.id}/script")
    except LiveError:
        return True
    return False


def test_a_snapshot_s_file_goes_on_in_another_session_and_rubbish_does_not(live: LiveClient) -> None:
    with live.open(PROMPTS[0], seed=1) as stream:
        take(stream, 3)
        stream.ask("pause")
        file = stream.snapshot()
        at = live.get(f"/v1/sessions/{stream.id}")["chunk"]
        stream.ask("resume")
        shown = {c.told["chunk"]: c.frames for c in take(stream, 6)}
        with live.open(PROMPTS[1], seed=2) as other:
            for rubbish in (b"", b"\x00" * 100, file[:-50], b"\xff" * 8 + file):
                with pytest.raises(LiveError, match="the file is not a snapshot"):
                    live.request("PUT", f"/v1/sessions/{other.id}/snapshot", rubbish)
            live.request("PUT", f"/v1/sessions/{other.id}/snapshot", file)
            chunks = [c for c in take(other, 4) if c.told["chunk"] >= at]
    both = [(c.frames, shown[c.told["chunk"]]) for c in chunks if c.told["chunk"] in shown]
    assert both and all(np.array_equal(a, b) for a, b in both)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "set a token of 16 characters or more with --token"),
        (["--host", "0.0.0.0", "--token", "short"], "16 characters"),
        (["--port", "99999"], "ports are numbers up to"),
        (["--sessions", "0"], "--sessions: 0 is too small; give at least 1"),
        (["--origin", "lab"], "is not an origin"),
        (["--prot", "1"], "--port"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    from adastate.live.serve import main

    with pytest.raises(SystemExit) as end:
        main(words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and told in error and error.count("\n") == 1


def test_mistakes_are_answered_before_torch_is_there() -> None:
    asked = "\n".join(
        (
            "import sys",
            "from adastate.live import serve",
            "try: serve.main(['--host', '::'])",
            "except SystemExit: print('torch' in sys.modules)",
        )
    )
    made = subprocess.run([sys.executable, "-c", asked], env=ENVIRONMENT, capture_output=True, text=True)
    assert made.stdout == "False\n", made.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "adastate", "live", "--port", "0"]
    run = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None
        line = next(line for line in run.stdout if "live: http://" in line)
        with LiveClient(line.split()[2]).open(PROMPTS[0]) as stream:
            take(stream, 2)
            run.send_signal(number)
            while stream.chunk(10) is not None:
                pass
        rest, errors = run.communicate(timeout=20)
    finally:
        run.kill()
    assert (run.returncode, rest) == (0, f"[adastate] {number.name} received, all sessions are closed\n"), errors
    assert "Traceback" not in errors
