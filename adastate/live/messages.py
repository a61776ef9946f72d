"""Messages of clients of `/v1/sessions` and the errors that answer invalid ones: versioned JSON with typed fields.

Unknown fields are refused, and the values are only data: no field becomes a path, an address or markup.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import time
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

VERSION = 1

Id = Annotated[str, Field(max_length=64)]
Chunks = Annotated[int, Field(ge=0, le=2**53)]
Encoding = Literal["auto", "raw", "png", "webp", "jpeg"]


class Limits(BaseModel):
    """Limits of one server; `GET /v1/info` reports all of them.

    Attributes:
        sessions: open at the same time; sessions of which only the snapshot is kept do not count.
        prompt_chars, message_bytes, messages_per_s: of a client's messages.
        image_bytes, image_pixels: of a picture that a stream begins with.
        script: controls of a replay.
        history: chunks that a session can roll back.
        unacknowledged: chunks that are generated ahead.
        idle_s: after which a session is closed that is paused or takes no chunk; `detached_s`: one without a socket.
        kept_s: how long the snapshot of a closed session is kept; `kept`: how many snapshots are kept.
        record_s: seconds of a recording.
        snapshot_bytes: of an uploaded snapshot.
    """

    sessions: int = 16
    prompt_chars: int = 500
    message_bytes: int = 64 * 1024
    messages_per_s: int = 40
    image_bytes: int = 8 * 2**20
    image_pixels: int = 2**24
    script: int = 2000
    history: int = 256
    unacknowledged: int = 2
    idle_s: float = 600
    detached_s: float = 60
    kept_s: float = 3600
    kept: int = 64
    record_s: float = 600
    snapshot_bytes: int = 256 * 2**20


class Refusal(Exception):
    """Refuses a request; answered with an error message.

    Args:
        code: error code for programs; `sentence`: error text for people.
        status: HTTP status.
        ident: the client's id of the message that this answers.
    """

    def __init__(self, code: str, sentence: str, status: int = 400, ident: str | None = None) -> None:
        super().__init__(sentence)
        self.code, self.status, self.ident = code, status, ident

    @property
    def message(self) -> dict[str, Any]:
        return server_message("error", id=self.ident, code=self.code, message=str(self))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Said(_Strict):
    v: Literal[1]
    id: Id | None = None


class Hello(_Said):
    type: Literal["hello"]
    token: Annotated[str, Field(max_length=512)] | None = None
    seen: Chunks | None = None
    encoding: Encoding = "auto"
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    states: bool = True
    attention: bool = True


class Ack(_Said):
    type: Literal["ack"]
    seq: Chunks


class SayPrompt(_Said):
    type: Literal["prompt"]
    text: str
    kind: Literal["keep", "recache", "flush", "cut"] | None = None
    anchor: Literal["keep", "reset"] | None = None


class Act(_Said):
    type: Literal["act"]
    keys: Annotated[str, Field(max_length=64)]


class Plain(_Said):
    type: Literal["pause", "resume", "script", "ping", "close"]


class Speed(_Said):
    type: Literal["speed"]
    value: Annotated[float, Field(ge=0.25, le=4)]


class Rollback(_Said):
    type: Literal["rollback"]
    to: Chunks | None = None
    chunks: Chunks | None = None


class ForkOff(_Said):
    type: Literal["fork"]
    to: Chunks | None = None


class Record(_Said):
    type: Literal["record"]
    on: bool
    states: bool = False


class Opening(_Strict):
    """Body of `POST /v1/sessions`."""

    v: Literal[1]
    prompt: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    system: Annotated[str, Field(max_length=64)] | None = None
    history: Annotated[int, Field(ge=0)] = 32
    image: str | None = None
    script: list[dict[str, Any]] = []
    pair: Annotated[str, Field(max_length=64)] | None = None


Said = Hello | Ack | SayPrompt | Act | Plain | Speed | Rollback | ForkOff | Record
_SAID: TypeAdapter[Said] = TypeAdapter(Annotated[Said, Field(discriminator="type")])
_IDENT = TypeAdapter(dict[str, Any])


def server_message(kind: str, /, **fields: Any) -> dict[str, Any]:
    """Builds a message of the server."""
    return {"v": VERSION, "type": kind, **fields}


def read_message(text: str, limits: Limits) -> Said:
    """Parses a client's message.

    Raises:
        Refusal: it is invalid.
    """
    if len(text.encode("utf-8", "replace")) > limits.message_bytes:
        raise Refusal("too_large", f"a message may have at most {limits.message_bytes} bytes", 413)
    try:
        said = _SAID.validate_json(text)
    except ValidationError as error:
        raise _refusal(error, _ident(text)) from None
    if isinstance(said, SayPrompt):
        refuse_long_prompt(said.text, limits, said.id)
    return said


def read_opening(body: bytes, limits: Limits) -> Opening:
    """The body of `POST /v1/sessions`; raises Refusal."""
    try:
        opening = Opening.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, None) from None
    refuse_long_prompt(opening.prompt, limits)
    if opening.history > limits.history:
        raise Refusal("bad_value", f"history is {opening.history}; a session here goes back {limits.history} chunks")
    if len(opening.script) > limits.script:
        raise Refusal("too_large", f"a script has at most {limits.script} controls", 413)
    for entry in opening.script:
        refuse_long_prompt(str(entry.get("text", " ")), limits)
        if type(entry.get("chunk")) is not int or entry["chunk"] < 0:
            raise Refusal("bad_value", "every control of a script needs its chunk, a number of 0 or above")
    return opening


def refuse_long_prompt(text: str, limits: Limits, ident: str | None = None) -> None:
    if len(text) > limits.prompt_chars:
        raise Refusal("too_large", f"a prompt has at most {limits.prompt_chars} characters", 413, ident)


def decoded_picture(coded: str, limits: Limits) -> Image.Image:
    """Decodes a picture from base64; raises Refusal."""
    rest = coded.partition(",")[2] if coded.startswith("data:") else coded
    if len(rest) > limits.image_bytes * 4 / 3 + 4:
        raise Refusal("too_large", f"a picture has at most {limits.image_bytes} bytes", 413)
    try:
        data = base64.b64decode(rest, validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > limits.image_pixels:  # read from its header, before anything is decoded
                raise Refusal("too_large", f"a picture has at most {limits.image_pixels} pixels", 413)
            image.load()
            return image.copy()
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Refusal("bad_value", "the picture cannot be read: send a PNG, JPEG or WebP file in base64") from None


def _refusal(error: ValidationError, ident: str | None) -> Refusal:
    """One sentence about the first mistake, without repeating what the client wrote."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = [str(part) for part in first["loc"]]
    kind, field = first["type"], place[-1] if place else ""
    if kind == "json_invalid":
        return Refusal("bad_message", "this is not JSON: send one object in UTF-8")
    if field == "v":
        return Refusal("version", f"this server speaks version {VERSION}: send the field v, {VERSION}", ident=ident)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        known = "hello, ack, prompt, act, pause, resume, speed, rollback, fork, record, script, ping, close"
        return Refusal("unknown_type", f"the type of a message is one of {known}", ident=ident)
    if kind == "extra_forbidden":
        return Refusal("bad_message", "the message has an unknown field: leave it out", ident=ident)
    where = f"field {field}: " if field.isidentifier() and len(field) <= 32 else ""
    return Refusal("bad_message", where + first["msg"][0].lower() + first["msg"][1:], ident=ident)


def _ident(text: str) -> str | None:
    """The id of a message that is otherwise invalid."""
    try:
        ident = _IDENT.validate_json(text).get("id")
    except ValidationError:
        return None
    return ident if isinstance(ident, str) and len(ident) <= 64 else None


class Bucket:
    """Rate limit of messages per second, with bursts of up to twice as many."""

    def __init__(self, rate: float) -> None:
        self._rate, self._left, self._at = rate, 2 * rate, time.monotonic()

    def take(self) -> bool:
        """Whether one more message is allowed now."""
        now = time.monotonic()
        self._left, self._at = min(2 * self._rate, self._left + (now - self._at) * self._rate), now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    async def wait(self) -> bool:
        """Waits until one more is allowed; returns whether it had to wait."""
        waited = False
        while not self.take():
            waited = True
            await asyncio.sleep(1 / self._rate)
        return waited
