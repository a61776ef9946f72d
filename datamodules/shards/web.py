"""Files of a web server by byte ranges: as they are, no more than was asked for, from the host that was named."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from fsspec.implementations.http import HTTPFileSystem  # type: ignore[import-untyped]

from datamodules.shards.safe_decode import ChangedError
from datamodules.shards.shard_error import ShardError

MOST_WHOLE = 1 << 30
"""Bytes of a file that is fetched whole, where a server has no byte ranges."""

MOST_LISTED = 16 << 20
"""Bytes of a page that lists files; one of a hundred thousand shards has a fifth of it."""

PORTS = {"http": 80, "https": 443}


class _Page(aiohttp.ClientResponse):
    """An answer that is read as a whole, which fsspec does with pages of files: no endless one."""

    async def read(self) -> bytes:
        found = bytearray()
        async for part in self.content.iter_chunked(1 << 20):
            found += part
            if len(found) > MOST_LISTED:
                self.close()
                raise ShardError(
                    f"{self.url.host} answers with more than {MOST_LISTED >> 20} MB to what should list files: give a "
                    "brace pattern of the shards"
                )
        self._body = bytes(found)
        return self._body


class WebFiles(HTTPFileSystem):  # type: ignore[misc]
    """fsspec's, with limits: a server is followed to no other host, and nothing is unpacked on the way."""

    def __init__(self, **options: Any) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_stay)
        client = {
            "auto_decompress": False,
            "trace_configs": [trace],
            "headers": {"Accept-Encoding": "identity"},
            "response_class": _Page,
        }
        super().__init__(client_kwargs=client, **options)

    async def _info(self, url: str, **options: Any) -> dict[str, Any]:
        try:
            return dict(await super()._info(url, **options))
        except FileNotFoundError as error:  # which fsspec says of whatever a server answers
            raise error.__cause__ or error from None

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, unless: str = "", **options: Any
    ) -> bytes:
        """Its bytes, one more than asked for where a server sends all it has.

        Args:
            unless: what `version` was when the file was looked at.
        """
        session = await self.set_session()
        ranged = start is not None and end is not None
        headers = {"Range": f"bytes={start}-{(end or 1) - 1}"} if ranged else {}
        async with session.get(self.encode_url(url), headers=headers) as answer:
            if answer.status == 416:  # the file ends before
                return b""
            self._raise_not_found_for_status(answer, url)
            if unless and (now := version(answer.headers)) and now != unless:
                raise ChangedError("was replaced on its server")
            if (packed := answer.headers.get("Content-Encoding", "identity")) not in ("identity", ""):
                raise ShardError(f"its server sends files packed, with {packed}: have it send them as they are")
            most = (end or 0) - (start or 0) + 1 if ranged else MOST_WHOLE
            found = bytearray()
            async for part in answer.content.iter_chunked(1 << 20):
                found += part
                if len(found) >= most:
                    break
            return bytes(found[:most])


def version(headers: Any) -> str:
    """What a server calls this content of a file; empty if it does not say."""
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


async def _stay(session: Any, context: Any, params: Any) -> None:
    """Raises ShardError where a server leads elsewhere, as what a URL names and the token in it are for one host."""
    asked = str(params.url)
    to = urlsplit(urljoin(asked, params.response.headers.get("Location") or params.response.headers.get("URI") or ""))
    here = urlsplit(asked)
    ports = [part.port or PORTS.get(part.scheme) for part in (here, to)]
    upgraded = (here.scheme, to.scheme) == ("http", "https") and ports == [80, 443]
    if to.hostname != here.hostname or not (upgraded or (to.scheme == here.scheme and ports[0] == ports[1])):
        raise ShardError(
            f"{here.hostname} leads on to {to.scheme}://{to.hostname}, another place than was named: give that address "
            "itself if you trust it"
        )
