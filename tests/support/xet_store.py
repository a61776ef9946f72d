"""A Xet store in a folder, which hf_xet itself writes to and reads from: its address is local://FOLDER.

What the Hub learns from an upload through Xet lies in its shards (xet-core, `mdb_shard`): records of 48 bytes, a file's
hash and the number of its segments first, then as many segments, as many hashes of their parts, and the SHA-256 of the
whole file.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RECORD, VERIFIED, HASHED = 48, 1 << 31, 1 << 30

FETCH = """
import sys
from hf_xet import XetFileInfo, XetSession
with XetSession().new_file_download_group(endpoint=sys.argv[1], token="x", token_expiry_unix_secs=2**33) as group:
    group.start_download_file(XetFileInfo(sys.argv[2], int(sys.argv[3])), sys.argv[4])
"""
"""In a process of its own: it has threads, and a test may fork."""


@dataclass(frozen=True)
class XetStore:
    folder: Path

    @property
    def access(self) -> dict[str, str | int]:
        """What the Hub answers to whoever asks where to send a file and by which right."""
        return {"casUrl": f"local://{self.folder}", "accessToken": "of this store", "exp": int(time.time()) + 3600}

    def hashes(self) -> dict[str, str]:
        """Xet's hash of every file, by its SHA-256."""
        return {sha: own for shard in self.folder.rglob("shards/*.mdb") for own, sha in _files(shard.read_bytes())}

    def content(self, sha256: str, size: int) -> bytes:
        """A file, put together from its parts by hf_xet."""
        out = self.folder / "fetched"
        words = [str(self.access["casUrl"]), self.hashes()[sha256], str(size), str(out)]
        subprocess.run([sys.executable, "-c", FETCH, *words], check=True, capture_output=True)
        return out.read_bytes()


def _files(shard: bytes) -> Iterator[tuple[str, str]]:
    """(Xet's hash, SHA-256) of the files of a shard."""
    at = RECORD  # behind the head
    while (own := shard[at : at + 32]) != b"\xff" * 32:
        flags, segments = (int.from_bytes(shard[at + i : at + i + 4], "little") for i in (32, 36))
        at += RECORD * (1 + segments * (2 if flags & VERIFIED else 1))
        if flags & HASHED:
            yield _spelt(own), _spelt(shard[at : at + 32])
            at += RECORD


def _spelt(digest: bytes) -> str:
    """Four numbers of 64 bits, the low byte first."""
    return "".join(digest[i : i + 8][::-1].hex() for i in range(0, 32, 8))
