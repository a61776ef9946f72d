"""The door of vLLM-Omni's clients: its messages, and one continuous fragmented mp4."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import av
import pytest

pytest.importorskip("fastapi", reason="the server's parts are not installed")

from websockets.sync.client import ClientConnection, connect

from tests.support.live_server import serving


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(paced=True) as (url, _):
        yield f"ws{url.removeprefix('http')}/v1/realtime/video"


def start(line: ClientConnection, **more: Any) -> None:
    line.send(json.dumps({"type": "session.start", "prompt": "one", "format": "m4s", **more}))


def rest(line: ClientConnection) -> tuple[list[dict[str, Any]], bytes]:
    """All messages up to the last, and the media; each of its messages has its bytes behind it."""
    told, media = [], b""
    while True:
        message = json.loads(line.recv(10))
        told.append(message)
        if message["type"] == "video.chunk_metadata":
            data = line.recv(10)
            assert isinstance(data, bytes) and len(data) == message["byte_length"]
            media += data
        if message["type"] == "session.done":
            return told, media


def test_a_stream_of_so_many_frames_is_one_mp4(address: str) -> None:
    with connect(address, max_size=None) as line:
        start(line, num_frames=7, model="any", guidance_scale=3.0, width=640)
        told, media = rest(line)
    assert told[0]["type"] == "video.start" and told[0]["config"]["num_frames"] == 7
    chunks = [m for m in told if m["type"] == "video.chunk_metadata"]
    assert [m["transport_chunk_index"] for m in chunks] == list(range(5))
    assert [m["generation_chunk_index"] for m in chunks[:-1]] == [0, 1, 2, 3]
    assert [m["kind"] for m in chunks] == ["media"] * 4 + ["trailer"]
    assert sum(m["num_frames"] for m in chunks) == 7
    assert told[-1] == {"type": "session.done", "request_id": told[0]["request_id"], "chunks": 5, "stopped": False}
    assert media[4:8] == b"ftyp"
    with av.open(io.BytesIO(media)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert sum(1 for _ in file.decode(stream)) == 7


def test_an_event_starts_is_active_and_completes(address: str) -> None:
    with connect(address, max_size=None) as line:
        start(line, seconds=3)
        event = {"event_id": "e1", "event": {"prompt": "two"}, "transition_chunks": 2}
        line.send(json.dumps({"type": "session.interaction", "interaction": event}))
        line.send(json.dumps({"type": "session.interaction", "interaction": event}))
        line.send(json.dumps({"type": "session.ping"}))
        told, _ = rest(line)
    by_type: dict[str, list[dict[str, Any]]] = {}
    for message in told:
        by_type.setdefault(message["type"], []).append(message)
    assert [m["event_id"] for m in by_type["session.interaction.queued"]] == ["e1"]
    assert [(m["code"], m["event_id"]) for m in by_type["error"]] == [("event_id_conflict", "e1")]
    assert len(by_type["session.pong"]) == 1
    chunks = by_type["video.chunk_metadata"]
    begun = next(n for n, m in enumerate(chunks) if m["started_event_ids"] == ["e1"])
    assert begun <= 2 and chunks[begun]["active_event_ids"] == ["e1"] and chunks[begun]["completed_event_ids"] == []
    assert chunks[begun + 1]["active_event_ids"] == chunks[begun + 1]["completed_event_ids"] == ["e1"]
    assert all(m["active_event_ids"] == [] for m in chunks[begun + 2 :])


def camera(mode: str, *move: float) -> dict[str, Any]:
    return {"multi_modal_data": {"camera": {"mode": mode, "data": {"translation": move, "rotation": [0, 0, 0, 1]}}}}


@pytest.mark.parametrize(
    "event",
    [{}, {"prompt": " "}, {"prompt": "a", "negative_prompt": "b"}, {"prompt": "a" * 600}, camera("target", 0, 0, 1)],
)
def test_an_event_that_cannot_be_fails_and_the_stream_goes_on(address: str, event: dict[str, Any]) -> None:
    with connect(address, max_size=None) as line:
        start(line, num_frames=6)
        line.send(json.dumps({"type": "session.interaction", "interaction": {"event_id": "x", "event": event}}))
        told, _ = rest(line)
    (error,) = [m for m in told if m["type"] == "error"]
    assert (error["code"], error["event_id"]) == ("interaction_failed", "x")
    assert told[-1]["stopped"] is False


def test_a_camera_s_velocity_is_keys_that_are_held(address: str) -> None:
    with connect(address, max_size=None) as line:
        start(line, num_frames=8)
        body = {"event_id": "go", "event": camera("velocity", -0.1, 0, 0.2)}
        line.send(json.dumps({"type": "session.interaction", "interaction": body}))
        told, _ = rest(line)
    assert not [m for m in told if m["type"] == "error"]
    assert ["go"] in [m.get("completed_event_ids") for m in told]


def test_a_stop_ends_it_and_rubbish_does_not(address: str) -> None:
    with connect(address, max_size=None) as line:
        start(line)
        for text in ("rubbish", "[]", "{}", '{"type":"session.fly"}', '{"type":"session.interaction"}'):
            line.send(text)
        line.send('{"type":"session.stop"}')
        told, _ = rest(line)
    assert len([m for m in told if m["type"] == "error"]) == 5 and told[-1]["stopped"] is True


@pytest.mark.parametrize(
    "first",
    [
        "rubbish",
        "{}",
        '{"type":"session.start"}',
        '{"type":"session.start","prompt":"a","format":"webm"}',
        '{"type":"session.start","prompt":"a","image_reference":{"image_url":"http://127.0.0.1/a.png"}}',
        '{"type":"session.start","prompt":"a","image_reference":{"image_url":"file:///etc/passwd"}}',
        '{"type":"session.start","prompt":"a","extra_params":{"system":"../x"}}',
        '{"type":"session.ping"}',
    ],
)
def test_a_start_that_is_none_is_answered(address: str, first: str) -> None:
    with connect(address, max_size=None) as line:
        line.send(first)
        assert json.loads(line.recv(5))["type"] == "error"
