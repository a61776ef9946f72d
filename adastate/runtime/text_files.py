"""Text files as people save them: one reader for prompts and captions, whatever the encoding and the line ends."""

from __future__ import annotations

import codecs
from pathlib import Path

MARKS = (  # longer ones first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NOT_TEXT = {*range(9), 11, *range(14, 27), *range(28, 32)}
"""Control characters that no text has."""


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, with or without a mark, or else in Latin-1; lines end with \\n.

    Raises:
        ValueError: it is not text, or begins with the mark of an encoding that it is not in.
    """
    data = file.read_bytes()
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None) or _without_mark(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not {encoding} (byte {error.start}): save it as UTF-8") from error
    if any(ord(c) in NOT_TEXT for c in text):
        raise ValueError(f"{file} is not a text file: give one prompt a line, in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(file: Path) -> list[str]:
    """Its lines, stripped, those at the end that are empty left out.

    Only line ends separate them: prompts hold other separators, U+2028 say.
    """
    return [line.strip() for line in read_text(file).rstrip().split("\n")]


def _without_mark(data: bytes) -> str:
    start = data[:4096]
    if len(start) > 1 and 3 * start.count(0) > len(start):  # half of Latin text in UTF-16 is zeros
        return "utf-16-le" if start[1::2].count(0) >= start[::2].count(0) else "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"
