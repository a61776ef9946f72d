"""The HTTP side of `adastate live`: sessions, snapshots, recordings, and the page with its files."""

from __future__ import annotations

import asyncio
import mimetypes
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import HTTPException
from fastapi.responses import FileResponse, JSONResponse
from starlette.types import ASGIApp

from adastate.live.guards import Guards
from adastate.live.messages import VERSION, Opening, Refusal, read_opening
from adastate.live.realtime_video import START_BYTES, RealtimeVideo
from adastate.live.session_door import SessionDoor
from adastate.live.session_hub import Hub

PAGE = Path(__file__).with_name("page")
KINDS = {".html", ".js", ".mjs", ".css", ".svg", ".json", ".png", ".ico", ".woff2"}
WS_BYTES = START_BYTES + 2**16
"""Maximum bytes of a message; a longer one closes the socket. The limits by message type are lower and answered."""


def page_files() -> dict[str, tuple[bytes, str]]:
    """The page's files with their types, by name: the only files that can be requested."""
    found = {}
    for path in sorted(PAGE.iterdir()) if PAGE.is_dir() else []:
        if path.is_file() and path.suffix in KINDS:
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            if path.suffix in (".js", ".mjs"):
                kind = "text/javascript"
            found[path.name] = path.read_bytes(), kind
    return found


def application(hub: Hub, guards: Guards) -> ASGIApp:
    """The application behind its access checks; the hub starts and stops with it."""

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        hub.start()
        yield
        await hub.stop()

    off: Any = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
    app = FastAPI(
        title="adastate live", version=str(VERSION), lifespan=living, docs_url=None, redoc_url=None, telemetry=off
    )
    files = page_files()

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(error.message, error.status)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        code = "no_session" if error.status_code == 404 else "bad_message"
        return JSONResponse(Refusal(code, "there is nothing at this address").message, error.status_code)

    @app.get("/v1/health")
    async def health() -> dict[str, Any]:
        return {"v": VERSION, "ok": True}

    @app.get("/v1/info")
    async def info() -> dict[str, Any]:
        return hub.info

    _sessions(app, hub)
    door, video = SessionDoor(hub, guards), RealtimeVideo(hub, guards)

    @app.websocket("/v1/sessions/{ident}/stream")
    async def stream(socket: WebSocket, ident: str) -> None:
        await door(socket, ident)

    @app.websocket("/v1/realtime/video")
    async def realtime(socket: WebSocket) -> None:
        await video(socket)

    @app.get("/", include_in_schema=False)
    @app.get("/page/{name}", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    async def page(name: str = "index.html") -> Response:
        if name not in files:
            raise Refusal("no_session", "there is nothing at this address", 404)
        data, kind = files[name]
        return Response(data, media_type=kind)

    return guards.around(app, [f"/{name}" for name in files])


def _sessions(app: FastAPI, hub: Hub) -> None:
    body = {"required": True, "content": {"application/json": {"schema": Opening.model_json_schema()}}}
    file = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}

    @app.post("/v1/sessions", status_code=201, openapi_extra={"requestBody": body})
    async def opened(request: Request) -> dict[str, Any]:
        data = await _body(request, hub.limits.image_bytes * 4 // 3 + 2**20)
        channel, twin = await hub.open(read_opening(data, hub.limits))
        return {"v": VERSION, "session": channel.told, "pair": None if twin is None else twin.told}

    @app.get("/v1/sessions/{ident}")
    async def told(ident: str) -> dict[str, Any]:
        return {"v": VERSION, **hub.get(ident).told}

    @app.delete("/v1/sessions/{ident}", status_code=204)
    async def closed(ident: str) -> Response:
        await hub.close(hub.get(ident))
        return Response(status_code=204)

    @app.get("/v1/sessions/{ident}/script")
    async def script(ident: str) -> dict[str, Any]:
        return hub.script(hub.get(ident))

    @app.get("/v1/sessions/{ident}/snapshot", response_class=Response)
    async def snapshot(ident: str) -> Response:
        data = await hub.snapshot(hub.get(ident))
        named = {"content-disposition": 'attachment; filename="session.safetensors"'}
        return Response(data, media_type="application/octet-stream", headers=named)

    @app.put("/v1/sessions/{ident}/snapshot", openapi_extra={"requestBody": file})
    async def restored(ident: str, request: Request) -> dict[str, Any]:
        channel = hub.get(ident)
        await hub.restore(channel, await _body(request, hub.limits.snapshot_bytes))
        return {"v": VERSION, **channel.told}

    @app.get("/v1/sessions/{ident}/recording", response_class=Response)
    async def recording(ident: str) -> Response:
        made = hub.get(ident).recorded
        if made is None:
            raise Refusal("no_session", "this session has no recording: start one with record, and stop it", 404)
        return FileResponse(made.path, media_type="video/mp4", filename="session.mp4")


async def _body(request: Request, most: int) -> bytes:
    """The request body; raises Refusal as soon as it is too large."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise Refusal("too_large", f"a body may have at most {most} bytes", 413)
    return bytes(data)


class LiveServer(uvicorn.Server):
    """uvicorn, but a signal ends it without a traceback and with exit code 0."""

    heard = ""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = self.heard or signal.Signals(number).name
        self.handle_exit(number, frame)


def bound(hub: Hub, guards: Guards, host: str, port: int) -> tuple[LiveServer, socket.socket, str]:
    """A server, the socket that it listens on, and its address.

    Args:
        port: 0 selects a free one.

    Raises:
        ValueError: the address or port is not available.
    """
    kept = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((host, port))
        kept.listen(128)  # from now on, so that clients can connect once the address is printed
    except OSError as error:
        kept.close()
        raise ValueError(f"cannot listen on {host}, port {port} ({error.strerror}): choose another --port") from error
    config = uvicorn.Config(
        application(hub, guards),
        log_level="error",
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=WS_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
    )
    shown = f"[{host}]" if ":" in host else host
    return LiveServer(config), kept, f"http://{shown}:{kept.getsockname()[1]}"


def serve(
    hub: Hub,
    host: str,
    port: int,
    token: str | None = None,
    origins: Sequence[str] = (),
    listening: Callable[[str], object] = print,
) -> str:
    """Serves until SIGINT or SIGTERM; returns the signal's name. Calls `listening` with the address. See `bound`."""
    server, kept, address = bound(hub, Guards(host, token, origins), host, port)
    with kept:
        listening(address)
        asyncio.run(server.serve(sockets=[kept]))
    return server.heard
