"""Files of a web server by byte ranges: not decompressed, no more than requested, and only from the named host."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from fsspec.implementations.http import HTTPFileSystem  # type: ignore[import-untyped]

from datamodules.shards.safe_decode import ChangedError
from datamodules.shards.shard_error import ShardError

MOST_WHOLE = 1 << 30
"""Maximum bytes of a file that is fetched completely, from a server without byte ranges."""

MOST_LISTED = 16 << 20
"""Maximum bytes of a page that lists files; one of a hundred thousand shards has a fifth of it."""

PORTS = {"http": 80, "https": 443}


class _Page(aiohttp.ClientResponse):
    """An answer that fsspec reads completely, as it does with listings: limited, so that it cannot be endless."""

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
    """fsspec's file system, with limits: no redirects to other hosts, and no decompression."""

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
        except FileNotFoundError as error:  # which fsspec raises for every answer of a server
            raise error.__cause__ or error from None

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, unless: str = "", **options: Any
    ) -> bytes:
        """The bytes of a file; one more than requested if a server sends everything.

        Args:
            unless: `version` at the time the file was checked.
        """
        session = await self.set_session()
        ranged = start is not None and end is not None
        headers = {"Range": f"bytes={start}-{(end or 1) - 1}"} if ranged else {}
        async with session.get(self.encode_url(url), headers=headers) as answer:
            if answer.status == 416:  # the file ends before this range
                return b""
            self._raise_not_found_for_status(answer, url)
            if unless and (now := version(answer.headers)) and now != unless:
                raise ChangedError("was replaced on its server")
            if (packed := answer.headers.get("Content-Encoding", "identity")) not in ("identity", ""):
                raise ShardError(f"its server compresses files with {packed}: disable that on the server")
            most = (end or 0) - (start or 0) + 1 if ranged else MOST_WHOLE
            found = bytearray()
            async for part in answer.content.iter_chunked(1 << 20):
                found += part
                if len(found) >= most:
                    break
            return bytes(found[:most])


def version(headers: Any) -> str:
    """The server's identifier for this content of a file; empty if it sends none."""
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


async def _stay(session: Any, context: Any, params: Any) -> None:
    """Raises ShardError if a server redirects elsewhere: the URL's path and its token are meant for one host."""
    asked = str(params.url)
    to = urlsplit(urljoin(asked, params.response.headers.get("Location") or params.response.headers.get("URI") or ""))
    here = urlsplit(asked)
    ports = [part.port or PORTS.get(part.scheme) for part in (here, to)]
    upgraded = (here.scheme, to.scheme) == ("http", "https") and ports == [80, 443]
    if to.hostname != here.hostname or not (upgraded or (to.scheme == here.scheme and ports[0] == ports[1])):
        raise ShardError(
            f"{here.hostname} redirects to {to.scheme}://{to.hostname}, another host than was named: give that address "
            "itself if you trust it"
        )
