"""What clients may say, and what is answered to all else."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("pydantic")

from adastate.live.messages import (
    Ack,
    Bucket,
    Limits,
    Refusal,
    SayPrompt,
    Speed,
    decoded_picture,
    read_message,
    read_opening,
)

LIMITS = Limits()

WRONG = [
    "",
    " ",
    "null",
    "0",
    "[]",
    '"hello"',
    "{",
    "{}",
    "{]",
    "true",
    "NaN",
    "[" * 60_000,
    '{"v":1}',
    '{"type":"ack"}',
    "\x00",
    "\ud7ff",
    '{"v":1,"type":"ack"}',
    '{"v":1,"type":"ack","seq":-1}',
    '{"v":1,"type":"ack","seq":1.5}',
    '{"v":1,"type":"ack","seq":"1"}',
    '{"v":1,"type":"ack","seq":null}',
    '{"v":1,"type":"ack","seq":1e400}',
    '{"v":1,"type":"ack","seq":' + "9" * 5000 + "}",
    '{"v":1,"type":"ack","seq":true}',
    '{"v":1,"type":"ack","seq":1,"more":2}',
    '{"v":2,"type":"ack","seq":1}',
    '{"v":"1","type":"ack","seq":1}',
    '{"type":"ack","seq":1}',
    '{"v":1,"type":"nonsense"}',
    '{"v":1,"type":null}',
    '{"v":1,"type":{}}',
    '{"v":1,"type":["ack"],"seq":1}',
    '{"v":1,"type":"__class__"}',
    '{"v":1,"type":"../../etc/passwd"}',
    '{"v":1,"type":"prompt"}',
    '{"v":1,"type":"prompt","text":1}',
    '{"v":1,"type":"prompt","text":null}',
    '{"v":1,"type":"prompt","text":["a"]}',
    '{"v":1,"type":"prompt","text":"a","kind":"explode"}',
    '{"v":1,"type":"prompt","text":"a","anchor":"throw"}',
    '{"v":1,"type":"prompt","text":"a","id":1}',
    '{"v":1,"type":"prompt","text":"' + "a" * 501 + '"}',
    '{"v":1,"type":"prompt","text":"' + "a" * 70_000 + '"}',
    '{"v":1,"type":"prompt","text":"\\ud800"}',
    '{"v":1,"type":"prompt","text":"a","id":"' + "i" * 65 + '"}',
    '{"v":1,"type":"act"}',
    '{"v":1,"type":"act","keys":7}',
    '{"v":1,"type":"act","keys":"' + "w" * 65 + '"}',
    '{"v":1,"type":"act","keys":["w"]}',
    '{"v":1,"type":"speed"}',
    '{"v":1,"type":"speed","value":0}',
    '{"v":1,"type":"speed","value":-1}',
    '{"v":1,"type":"speed","value":1e9}',
    '{"v":1,"type":"speed","value":NaN}',
    '{"v":1,"type":"speed","value":Infinity}',
    '{"v":1,"type":"speed","value":"2"}',
    '{"v":1,"type":"rollback","to":-1}',
    '{"v":1,"type":"rollback","to":"/etc/passwd"}',
    '{"v":1,"type":"rollback","chunks":1e99}',
    '{"v":1,"type":"fork","to":{}}',
    '{"v":1,"type":"record"}',
    '{"v":1,"type":"record","on":"yes"}',
    '{"v":1,"type":"record","on":true,"path":"/tmp/x.mp4"}',
    '{"v":1,"type":"hello","encoding":"bmp"}',
    '{"v":1,"type":"hello","quality":0}',
    '{"v":1,"type":"hello","token":"' + "t" * 600 + '"}',
    '{"v":1,"type":"hello","seen":"all"}',
    '{"v":1,"type":"pause","for":5}',
    '{"v":1,"type":"close"',
    "<script>alert(1)</script>",
    '{"v":1,"type":"<img src=x onerror=alert(1)>"}',
    '{"v":1,"type":"ping","<b>":1}',
]
"""Messages that are none."""


def test_sixty_of_them() -> None:
    assert len(WRONG) >= 60


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_no_message_is_answered_in_one_sentence_that_repeats_nothing(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_message(text, LIMITS)
    told = json.dumps(refused.value.message)
    assert len(told) < 400 and "\n" not in str(refused.value)
    assert not any(part in told for part in ("passwd", "<", "alert", "pydantic", "https"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"v":1,"type":"ack","seq":7}', Ack),
        ('{"v":1,"type":"prompt","id":"c7","text":"a <b>disc</b>","kind":"cut","anchor":null}', SayPrompt),
        ('{"v":1,"type":"speed","value":2}', Speed),
    ],
)
def test_what_is_a_message_is_read(text: str, kind: type) -> None:
    assert isinstance(read_message(text, LIMITS), kind)


def test_an_error_has_the_id_of_the_message_that_it_answers() -> None:
    with pytest.raises(Refusal) as refused:
        read_message('{"v":1,"type":"prompt","id":"c9"}', LIMITS)
    assert refused.value.message["id"] == "c9" and refused.value.code == "bad_message"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"v": 3}, "version"),
        ({"prompt": "a" * 501}, "too_large"),
        ({"history": 10_000}, "bad_value"),
        ({"seed": -1}, "bad_message"),
        ({"seed": 2**64}, "bad_message"),
        ({"script": [{}] * 2001}, "too_large"),
        ({"script": [{"chunk": "1", "kind": "prompt", "text": "a"}]}, "bad_value"),
        ({"script": [{"chunk": 1, "kind": "prompt", "text": "a" * 501}]}, "too_large"),
        ({"weights": "/etc/passwd"}, "bad_message"),
    ],
)
def test_an_opening_has_its_limits(more: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_opening(json.dumps({"v": 1, "prompt": "one", **more}).encode(), LIMITS)
    assert refused.value.code == code


def coded(size: tuple[int, int], kind: str = "PNG") -> str:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


def test_a_picture_is_read_out_of_base64_and_a_data_url() -> None:
    for head in ("", "data:image/png;base64,"):
        assert decoded_picture(head + coded((20, 10)), LIMITS).size == (20, 10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!!!!",
        "aGVsbG8=",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://example.com/a.png",
        coded((20, 10), "BMP"),
        coded((20, 10), "GIF"),
        coded((5000, 5000)),
        coded((20, 10))[:60],
        "A" * 12_000_000,
    ],
    ids=range(11),
)
def test_what_is_no_picture_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        decoded_picture(text, LIMITS)


def test_a_bucket_lets_a_burst_through_and_then_no_more() -> None:
    bucket = Bucket(10)
    assert [bucket.take() for _ in range(40)].count(True) in range(20, 23)
