"""Access control: the token, compared in constant time, and only pages of this server or of allowed origins."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from adastate.live.messages import Refusal

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN = ("/v1/health", "/page/")
"""Paths that need no token: they reveal nothing about a session."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Guards:
    """Access checks around the application.

    Requests from pages of another origin are refused. While the server listens on this machine only, so are requests
    whose Host header names another host: otherwise a foreign domain that resolves to this address (DNS rebinding) would
    count as the server's own origin.

    Args:
        host: address that the server is bound to.
        token: token that clients must send; None: no token is needed.
        origins: other origins whose pages may connect, such as "https://lab.example".
    """

    def __init__(self, host: str, token: str | None = None, origins: Sequence[str] = ()) -> None:
        self.loopback, self._token = host in LOOPBACK, token
        self.origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    def right(self, token: str | None) -> bool:
        """Whether the token is correct."""
        if self._token is None:
            return True
        return hmac.compare_digest((token or "").encode("utf-8", "replace"), self._token.encode())

    def told(self, authorization: str | None) -> bool:
        """Whether an Authorization header contains the correct token."""
        scheme, _, token = (authorization or "").partition(" ")
        return self.right(token.strip() if scheme.lower() == "bearer" else None)

    def check(self, headers: dict[str, str]) -> None:
        """Raises Refusal for a foreign origin or host name."""
        host = headers.get("host", "")
        if self.loopback and _name(host) not in LOOPBACK:
            raise Refusal("origin", "this server answers only to 127.0.0.1 and localhost", 403)
        origin = headers.get("origin")
        if origin is None or origin.lower() in self.origins:
            return
        if origin.lower().partition("://")[2] != host.lower() or not host:
            raise Refusal("origin", "pages of another origin are not allowed: start the server with --origin", 403)

    def around(self, app: ASGIApp, names: Sequence[str]) -> ASGIApp:
        """Wraps the application with these checks; `names` are paths of the page, which need no token."""
        return _Guarded(app, self, frozenset(("/", *names)))


class _Guarded:
    def __init__(self, app: ASGIApp, guards: Guards, names: frozenset[str]) -> None:
        self.app, self.guards, self.names = app, guards, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self.guards.check(headers)
            path = scope["path"]
            free = path in self.names or path.startswith(OPEN)
            if scope["type"] == "http" and not free and not self.guards.told(headers.get("authorization")):
                raise Refusal("unauthorized", "this server was started with a token: Authorization: Bearer TOKEN", 401)
        except Refusal as error:
            await _refuse(scope, receive, send, error)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)


async def _refuse(scope: Scope, receive: Receive, send: Send, error: Refusal) -> None:
    body = json.dumps(error.message).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": body.decode()})
    await send({"type": "websocket.close", "code": 4403})


def _name(host: str) -> str:
    """The host name in a Host header, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
