"""Files that mean harm, made on the spot: tars that lead out of their folder or promise what is not there, arrays that
are programs, videos of a thousand million pictures. Each is one sample (or shard) among good ones."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections.abc import Callable

import numpy as np
import torch

from datamodules.shards.shard_writer import npy
from datamodules.tools.footage import encode_clip
from tests.support.sample_videos import scene

SHAPE = (5, 2, 4, 4)
Entry = tuple[tarfile.TarInfo, bytes]


def latents(i: int = 0) -> bytes:
    return npy(torch.full(SHAPE, float(i)))


def video(pictures: int = 5) -> bytes:
    return encode_clip(scene(0, pictures, size=(16, 16)), 8)


def entry(name: str, data: bytes = b"", **told: object) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in told.items():
        setattr(info, key, value)
    return info, data


def blocks(info: tarfile.TarInfo, data: bytes, form: int = tarfile.PAX_FORMAT) -> bytes:
    return info.tobuf(form) + data + bytes(-len(data) % 512)


def sample(i: int, kind: str = "latent.npy", data: bytes | None = None, **other: bytes | None) -> bytes:
    """The tar blocks of one sample; `other` replaces its txt and json."""
    members = {kind: latents(i) if data is None else data, "txt": f"clip {i}".encode(), "json": b"{}"}
    members |= {k: v for k, v in other.items() if v is not None}
    return b"".join(blocks(*entry(f"clip-{i:03d}.{k}", v)) for k, v in sorted(members.items()))


def tar(*parts: bytes) -> bytes:
    return b"".join(parts) + bytes(1024)


def resized(size: int, name: str = "clip-005.latent.npy") -> bytes:
    """A header that claims `size` bytes over the few that follow."""
    info, data = entry(name, latents(5))
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = size.to_bytes(12, "big") if size >= 8**11 else b"%011o\0" % size
    head[124] |= 0x80 if size >= 8**11 else 0
    return checked(bytes(head)) + data


def checked(head: bytes) -> bytes:
    blank = head[:148] + b" " * 8 + head[156:]
    return head[:148] + b"%06o\0 " % sum(blank) + head[156:]


def extended(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = kind, len(data) if size is None else size
    return blocks(info, data, tarfile.GNU_FORMAT)


def record(key: str, value: str) -> bytes:
    size = len(key) + len(value.encode()) + 3
    length = size + len(str(size))
    length = size + len(str(length))
    return f"{length} {key}={value}\n".encode()


def array(descr: str, shape: str, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    told = len(header) if length is None else length
    packed = struct.pack("<H", told) if version == 1 else struct.pack("<I", told)
    return b"\x93NUMPY" + bytes([version, 0]) + packed + header + data


def objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return out.getvalue()


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("raise SystemExit('a pickle has run')",)


def patched(kind: bytes, at: int, value: bytes, data: bytes | None = None) -> bytes:
    """A video whose box `kind` has `value` at byte `at` of its body."""
    made = bytearray(video() if data is None else data)
    start = made.index(kind) + 4 + at
    made[start : start + len(value)] = value
    return bytes(made)


BIG = struct.pack(">I", 10**9)
SIDE = struct.pack(">I", 60_000 << 16)

ARRAYS: dict[str, tuple[bytes, str]] = {
    "a pickle in place of an array": (pickle.dumps(Bomb()), "is not a .npy file"),
    "an array of objects": (objects(), "Object arrays cannot be loaded"),
    "an object dtype without data": (array("'|O'", "(5, 2, 4, 4)"), "Object arrays"),
    "a header of a gigabyte": (array("'<f2'", "(1,)", version=2, length=2**30), "its header claims 1073741824 bytes"),
    "a header of 60 kB": (array("'<f2'", "(" + "1," * 30_000 + ")"), "its header claims"),
    "a header that is a program": (array("__import__('os').abort()", "(1,)"), "its header cannot be read"),
    "a header nested a thousand deep": (array("'<f2'", "(" * 1000 + ")" * 1000), "its header c"),
    "a shape of 10^12 numbers": (array("'<f2'", "(1000000, 1000000)"), "claims 2000000000000 bytes"),
    "a shape that overflows": (array("'<f2'", "(4294967296, 4294967296, 2)"), "claims 73786976294838206464 bytes"),
    "a negative shape": (array("'<f2'", "(-5, 2, 4, 4)"), "gives no shape"),
    "a shape of truth values": (array("'<f2'", "(True, 2)", b"\0" * 4), "gives no shape"),
    "records": (array("[('a', '<f2')]", "(1,)", b"\0\0"), "holds records"),
    "text for numbers": (array("'<U9'", "(1,)", b"\0" * 36), "are str"),
    "half of the numbers": (latents()[:150], "claims 320 bytes"),
    "numbers that are not": (npy(torch.zeros(SHAPE))[:-2] + b"\x00\x7e", "not finite"),
}

VIDEOS: dict[str, tuple[bytes, str]] = {
    "10^9 pictures of one size": (patched(b"stsz", 4, struct.pack(">II", 100, 10**9)), "claims 1000000000 pictures"),
    "10^9 pictures": (patched(b"stsz", 8, BIG), "claims 1000000000 pictures"),
    "10^9 time steps": (patched(b"stts", 8, BIG), "claims 1000000000 pictures"),
    "60,000 x 60,000 pixels": (patched(b"tkhd", 76, SIDE + SIDE), "pictures of 60000 x 60000"),
    "65,535 x 65,535 pixels of code": (patched(b"stsd", 32 + 8, b"\xff" * 4), "pictures of 65535 x 65535"),
    "a box larger than the file": (patched(b"moov", -8, struct.pack(">I", 2**31)), "truncated"),
    "a box of no size": (patched(b"trak", -8, struct.pack(">I", 3)), "truncated"),
    "half a video": (video(9)[: len(video(9)) // 2], "truncated"),
    "a list of files": (b"ffconcat version 1.0\nfile /etc/passwd\n", "truncated|not a readable mp4"),
    "a playlist that opens files": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "truncated|not a readable mp4"),
}

TARS: dict[str, tuple[bytes, str]] = {
    "a name that climbs": (blocks(*entry("../../x5.txt", b"x")), "leads out of its folder"),
    "an absolute name": (blocks(*entry("/etc/passwd.txt", b"x")), "leads out of its folder"),
    "a name of Windows": (blocks(*entry("C:\\x.txt", b"x")), "leads out of its folder"),
    "a symbolic link": (
        blocks(*entry("clip-005.latent.npy", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "is a symbolic link",
    ),
    "a hard link": (blocks(*entry("clip-005.txt", type=tarfile.LNKTYPE, linkname="clip-000.txt")), "is a hard link"),
    "a device": (blocks(*entry("clip-005.txt", type=tarfile.CHRTYPE)), "is a special file"),
    "a pipe": (blocks(*entry("clip-005.txt", type=tarfile.FIFOTYPE)), "is a special file"),
    "a name with a line break": (blocks(*entry("clip\n005.txt", b"x")), "control characters"),
    "a pax name that climbs": (
        extended(b"x", record("path", "../../../root/.bashrc.txt")) + blocks(*entry("clip-005.txt", b"x")),
        "leads out of its folder",
    ),
    "a pax size": (
        extended(b"x", record("size", "99999999999")) + blocks(*entry("clip-005.txt", b"x")),
        "extends beyond the end of the file",
    ),
    "a pax header of 100 kB": (
        extended(b"x", record("comment", "x" * 100_000)) + blocks(*entry("clip-005.txt", b"x")),
        "extended header of 1000",
    ),
    "pax headers in a row": (
        extended(b"x", record("comment", "x")) * 9 + blocks(*entry("clip-005.txt", b"x")),
        "more than 4 extended headers",
    ),
    "a pax header that is none": (
        extended(b"x", b"12345 nothing") + blocks(*entry("clip-005.txt", b"x")),
        "invalid extended header",
    ),
    "a sparse file": (
        extended(b"x", record("GNU.sparse.realsize", "1" + "0" * 15)) + blocks(*entry("clip-005.txt", b"x")),
        "is a sparse file",
    ),
    "a global header that renames": (extended(b"g", record("path", "x.txt")), "a global header sets"),
    "a long name of a megabyte": (extended(b"L", b"x" * 2**20) + blocks(*entry("c.txt", b"x")), "of 1048576 bytes"),
    "a size of 10^15": (resized(10**15), "extends beyond the end of the file"),
    "a size of 8 GB": (resized(8 * 2**30 - 1), "extends beyond the end of the file"),
    "a damaged header": (blocks(*entry("clip-005.txt", b"x")).replace(b"clip", b"blip", 1), "damaged header"),
    "a member twice": (sample(5) + sample(5), "has a duplicate file name"),
}

WORDS: dict[str, tuple[dict[str, bytes], str]] = {
    "facts nested 100,000 deep": ({"json": b'{"a":' * 100_000 + b"1" + b"}" * 100_000}, "invalid .json"),
    "facts nested 50 deep": ({"json": b'{"a":' * 50 + b"1" + b"}" * 50}, "nested deeper than 16"),
    "facts of two megabytes": ({"json": b'{"a": "' + b"x" * 2**21 + b'"}'}, "has a json of 2097161 bytes"),
    "a number of 10,000 digits": ({"json": b'{"a": ' + b"1" * 10_000 + b"}"}, "invalid .json"),
    "a caption of two megabytes": ({"txt": b"x" * 2**21}, "has a txt of 2097152 bytes"),
    "a caption that is no text": ({"txt": b"\xff\xfe\x00"}, "is not utf-16"),
}
