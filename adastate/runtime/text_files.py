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
        ValueError: it is not text, or begins with the mark of an encoding that it is not in, or is UTF-8 but for some
            bytes.
    """
    try:
        return decode_text(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} {error}") from error


def decode_text(data: bytes) -> str:
    """The text of these bytes, as `read_text` has it; its errors lack the name of the file."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None) or _without_mark(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"is not {encoding} (line {line}): save it as UTF-8") from error
    if any(ord(c) in NOT_TEXT for c in text):
        raise ValueError("is not a text file: save it as UTF-8")
    # marks within a text are those of files that were joined
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def read_lines(file: Path) -> list[str]:
    """Its lines, stripped, those at the end that are empty left out.

    Only line ends separate them: prompts hold other separators, U+2028 say.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as `read_text`, or a file of JSON, whose lines are no prompts.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of prompts {file}: give a text file with one prompt per line")
    if file.suffix.lower() in (".json", ".jsonl"):
        raise ValueError(f"{file} is JSON: give a text file with one prompt per line")
    return [line.strip() for line in read_text(file).rstrip().split("\n")]


def _without_mark(data: bytes) -> str:
    start = data[:4096]
    if len(start) > 1 and 3 * start.count(0) > len(start):  # half of Latin text in UTF-16 is zeros
        return "utf-16-le" if start[1::2].count(0) >= start[::2].count(0) else "utf-16-be"
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        told = data.decode("utf-8", "replace")
    # other bytes seldom happen to be UTF-8: where most are, it is UTF-8 with a fault, which decoding then names
    if 2 * told.count("\ufffd") <= sum(c > "\x7f" for c in told):
        return "utf-8"
    if NOT_TEXT.intersection(start):
        raise ValueError("is not a text file: save it as UTF-8")
    if 2 * sum(byte > 127 for byte in data) > len(data) - data.count(b" "):
        raise ValueError("is in an unknown encoding, not UTF-8 or Latin-1: save it as UTF-8")
    try:
        data.decode("cp1252")  # Latin-1 with quotation marks, as Windows writes it
        return "cp1252"
    except UnicodeDecodeError:
        return "latin-1"


def read_prompts(file: Path) -> list[str]:
    """One prompt a line, in any encoding that `read_text` knows; blank lines are ignored.

    Raises:
        FileNotFoundError, ValueError: no such file; no prompt in it; no text.
    """
    prompts = [line for line in read_lines(file) if line]
    if not prompts:
        raise ValueError(f"{file} holds no prompt: write one per line")
    return prompts
