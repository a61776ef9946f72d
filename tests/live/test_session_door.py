"""The socket of a session: order, acknowledgement, controls, and clients that are slow, gone, or talk rubbish."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator

import av
import numpy as np
import psutil
import pytest

pytest.importorskip("fastapi", reason="the server's parts are not installed")

from adastate.live.client import LiveChunk, LiveClient, LiveError, LiveStream
from adastate.live.messages import Limits
from tests.support.live_server import serving


@pytest.fixture(scope="module")
def live() -> Iterator[LiveClient]:
    with serving() as (url, _):
        yield LiveClient(url)


def take(stream: LiveStream, count: int) -> list[LiveChunk]:
    """The next chunks, each acknowledged."""
    found = []
    for _ in range(count):
        chunk = stream.chunk(10)
        assert chunk is not None
        stream.acknowledge(chunk)
        found.append(chunk)
    return found


def test_chunks_come_in_order_with_their_states_and_numbers(live: LiveClient) -> None:
    with live.open("one", seed=3) as stream:
        for n, chunk in enumerate(take(stream, 20)):
            assert (chunk.told["seq"], chunk.told["chunk"], chunk.told["at"]) == (n, n, n * 0.25)
            assert chunk.frames.shape == (2, 2, 4, 3) and (chunk.frames[..., 0] == n).all()
            assert chunk.states is not None and chunk.states.shape == (1, 2, 4, 3)
            assert chunk.told["attention"] == {"own": 1.0} and chunk.told["bytes"] == 1000


@pytest.mark.parametrize("encoding", ["raw", "png", "webp", "jpeg"])
def test_pictures_come_in_the_encoding_that_was_asked_for(live: LiveClient, encoding: str) -> None:
    with live.open("one", {"encoding": encoding, "states": False}) as stream:
        chunk = take(stream, 5)[-1]
        assert chunk.told["frames"]["encoding"] == encoding and chunk.states is None
        assert np.abs(chunk.frames[..., 0].astype(int) - 4).max() <= (0 if encoding in ("raw", "png") else 12)


def test_at_most_two_chunks_are_made_ahead(live: LiveClient) -> None:
    with live.open("one") as stream:
        first, second = (stream.chunk(10) for _ in range(2))
        with pytest.raises(TimeoutError):
            stream.chunk(0.2)
        assert first is not None and second is not None
        stream.acknowledge(first)
        third = stream.chunk(10)
        assert third is not None and third.told["chunk"] == 2
        assert live.get(f"/v1/sessions/{stream.id}")["chunk"] == 3


def test_a_control_is_seen_at_most_one_chunk_later_and_has_a_receipt() -> None:
    with serving(paced=True) as (url, _), LiveClient(url).open("one") as stream:
        before = take(stream, 2)[-1].told["chunk"]
        answer = stream.ask("prompt", text="another", kind="recache", anchor="keep")
        chunk = take(stream, 1)[0]
        if not chunk.told["receipts"]:  # one was under way
            chunk = take(stream, 1)[0]
        assert chunk.told["chunk"] <= before + 2 and chunk.told["prompt"] == "another"
        (receipt,) = chunk.told["receipts"]
        assert (receipt["number"], receipt["id"], receipt["kind"]) == (answer["number"], answer["id"], "prompt")
        stream.ask("act", keys="wa")
        assert "wa" in [c.told["keys"] for c in take(stream, 2)]


def test_rollback_fork_pause_speed_and_script(live: LiveClient) -> None:
    with live.open("one") as stream:
        take(stream, 8)
        back = stream.ask("rollback", to=3)
        assert back["session"]["chunk"] == 3
        chunks = take(stream, 3)
        assert [c.told["chunk"] for c in chunks] == [3, 4, 5]
        assert chunks[0].told["seq"] >= 8, "what is sent is numbered on"
        fork = stream.ask("fork", to=2)["session"]
        with LiveStream(live, fork, {}) as twin:
            assert take(twin, 1)[0].told["chunk"] == 2 and twin.id != stream.id
        assert stream.ask("pause")["session"]["paused"]
        assert not stream.ask("resume")["session"]["paused"]
        assert stream.ask("speed", value=2.0)["session"]["speed"] == 2.0
        assert stream.ask("script")["script"]["prompt"] == "one"
        with pytest.raises(LiveError, match="rollback can reach chunks 0 to"):
            stream.ask("rollback", to=99)
        with pytest.raises(LiveError, match="a prompt is a text"):
            stream.ask("prompt", text=" ")
        take(stream, 2)


def test_two_of_a_pair_have_the_same_controls_in_the_same_chunk(live: LiveClient) -> None:
    made = live.request("POST", "/v1/sessions", b'{"v":1,"prompt":"one","system":"adastate","pair":"longlive"}')
    both = json.loads(made)
    assert both["session"]["pair"] == both["pair"]["id"] and both["pair"]["system"] == "longlive"
    with LiveStream(live, both["session"], {}) as left, LiveStream(live, both["pair"], {}) as right:
        shown: tuple[dict[int, str], dict[int, str]] = {}, {}
        for n in range(14):
            if n == 4:
                left.ask("prompt", text="another")
            if n == 8:
                right.ask("rollback", to=2)
            for stream, of_it in zip((left, right), shown, strict=True):
                told = take(stream, 1)[0].told
                of_it[told["chunk"]] = told["prompt"]
        assert [shown[0][n] for n in range(8)] == [shown[1][n] for n in range(8)]


def test_a_client_that_comes_back_misses_nothing_and_gets_nothing_twice(live: LiveClient) -> None:
    with live.open("one") as stream:
        seen = [chunk.told["seq"] for chunk in take(stream, 3)]
        for _ in range(5):
            chunk = stream.chunk(10)  # not acknowledged: the connection is lost before
            assert chunk is not None
            seen.append(chunk.told["seq"])
            stream.connect()
            assert stream.ready["resumed"]
            seen += [chunk.told["seq"] for chunk in take(stream, 2)]
        assert seen == list(range(len(seen)))


def test_a_second_socket_takes_the_place_of_the_first(live: LiveClient) -> None:
    with live.open("one") as stream:
        take(stream, 2)
        second = LiveStream(live, stream.session, {}).connect()
        while stream.chunk(10) is not None:
            pass
        take(second, 2)
        second.drop()


def test_a_session_that_fails_says_so_and_goes_on(live: LiveClient) -> None:
    with live.open("one") as stream:
        take(stream, 2)
        stream.say("prompt", text="fail")
        with pytest.raises(LiveError, match="it was told to fail"):
            take(stream, 10)
        stream.ask("resume")
        take(stream, 3)


def test_a_recording_is_an_mp4_of_what_was_shown(live: LiveClient) -> None:
    with live.open("one") as stream:
        with pytest.raises(LiveError, match="nothing is being recorded"):
            stream.ask("record", on=False)
        stream.ask("record", on=True, states=True)
        take(stream, 6)
        told = stream.ask("record", on=False)
        data = live.request("GET", told["url"])
    with av.open(io.BytesIO(data)) as file:
        frames = sum(1 for _ in file.decode(video=0))
    assert frames == round(told["seconds"] * 8) >= 8 and len(data) == told["bytes"]


def crowd(live: LiveClient, chunks: int) -> dict[str, list[int]]:
    """Four clients at a time: one quick, one slow, one that vanishes and comes back, one that talks rubbish."""
    seen: dict[str, list[int]] = {}
    errors: list[BaseException] = []

    def client(name: str, count: int) -> None:
        try:
            with live.open(name) as stream:
                found = seen.setdefault(name, [])
                while len(found) < count:
                    if name == "rubbish" and len(found) % 5 == 0 and stream._socket is not None:
                        stream._socket.send("{" * (len(found) + 1))
                    try:
                        chunk = stream.chunk(20)
                    except LiveError:
                        continue
                    assert chunk is not None
                    found.append(chunk.told["seq"])
                    if name == "vanishes" and len(found) % 17 == 0:
                        stream.connect()
                    elif name == "slow":
                        time.sleep(0.1)
                    stream.acknowledge(chunk)
        except BaseException as error:
            errors.append(error)

    counts = {"quick": chunks, "slow": chunks // 10, "vanishes": chunks, "rubbish": chunks}
    threads = [threading.Thread(target=client, args=item) for item in counts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return seen


@pytest.mark.slow
def test_nobody_waits_for_a_slow_client_and_no_chunk_is_lost_or_doubled() -> None:
    with serving(limits=Limits(messages_per_s=100_000)) as (url, hub):
        seen = crowd(LiveClient(url), 150)
        assert all(numbers == list(range(len(numbers))) for numbers in seen.values())
        assert hub.channels == {} and hub.pacing.groups == []


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_chunks() -> None:
    with serving(limits=Limits(messages_per_s=100_000)) as (url, _):
        crowd(LiveClient(url), 300)
        before = psutil.Process().memory_info().rss
        crowd(LiveClient(url), 2000)
        assert psutil.Process().memory_info().rss - before < 16 * 2**20


def test_a_client_that_says_too_much_is_read_more_slowly_and_loses_nothing() -> None:
    with serving(limits=Limits(messages_per_s=50)) as (url, _), LiveClient(url).open("one") as stream:
        for n in range(150):
            stream.say("ping", id=f"p{n}")
        answers, slower = [], 0
        while len(answers) < 150:
            message = stream._next(10)
            if isinstance(message, LiveChunk):
                continue
            slower += message.get("code") == "rate"
            answers += [message["id"]] if message["type"] == "pong" else []
        assert answers == [f"p{n}" for n in range(150)] and slower >= 1


def test_sessions_are_limited() -> None:
    with serving(limits=Limits(sessions=1)) as (url, _):
        live = LiveClient(url)
        with live.open("one") as stream:
            with pytest.raises(LiveError, match="allows 1 sessions"):
                live.open("two")
            with pytest.raises(LiveError, match="allows 1 sessions"):
                stream.ask("fork")
            take(stream, 2)
        live.open("two")
