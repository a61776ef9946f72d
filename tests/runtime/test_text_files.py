"""One reader for texts that people bring."""

from __future__ import annotations

from pathlib import Path

import pytest

from adastate.runtime.text_files import read_lines, read_prompts, read_text

TEXT = "a café at noon\n\n1980s: a street\na line\u2028 that goes on\n"
LINES = ["a café at noon", "", "1980s: a street", "a line\u2028 that goes on"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_and_line_end(encoding: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(TEXT.replace("\n", end).encode(encoding))
    assert read_lines(tmp_path / "prompts.txt") == LINES
    assert read_prompts(tmp_path / "prompts.txt") == [line for line in LINES if line]


def test_latin_1(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("a café\nein Hügel\n".encode("latin-1"))
    assert read_prompts(tmp_path / "prompts.txt") == ["a café", "ein Hügel"]


def test_the_latin_1_of_windows_and_marks_within_a_text(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("“a café” – at noon…\n".encode("cp1252"))
    assert read_prompts(tmp_path / "prompts.txt") == ["“a café” – at noon…"]
    (tmp_path / "prompts.txt").write_bytes("a café\n".encode("utf-8-sig") * 2)
    assert read_prompts(tmp_path / "prompts.txt") == ["a café"] * 2


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("ein Hügel, ein Café\n".encode() * 9 + b"caf\xe9", "is not utf-8 .line 10.: save it as UTF-8"),
        ("улица ночью".encode("cp1251"), "unknown encoding, not UTF-8 or Latin-1: save it as UTF-8"),
        ("雪山の上を飛ぶ".encode("shift-jis"), "unknown encoding"),
        ("雪山上的飞行".encode("gb18030"), "save it as UTF-8"),
    ],
)
def test_no_prompt_is_read_wrongly_in_silence(data: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"prompts\.txt .*{sentence}"):
        read_prompts(tmp_path / "prompts.txt")


@pytest.mark.parametrize("name", ["prompts.json", "prompts.JSONL"])
def test_json_is_no_list_of_prompts(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('["a hill"]')
    with pytest.raises(ValueError, match=r"is JSON: give a text file with one prompt per line"):
        read_prompts(tmp_path / name)


def test_other_alphabets_and_tabs_are_text(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("雪山の上を飛ぶ\tnow\n🎈 over hills\n", encoding="utf-8")
    assert read_prompts(tmp_path / "prompts.txt") == ["雪山の上を飛ぶ\tnow", "🎈 over hills"]


NOISE = b"\x89PNG\r\n\x1a\n" + bytes(range(128, 256)) * 9 + bytes(9)


@pytest.mark.parametrize("data", [NOISE, b"\x00\x01\x02\x03ftypisom" * 9, b"\x89PNG\r\n\x1a\n" + bytes(range(256))])
def test_what_is_no_text_is_said(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"prompts\.txt is not a text file"):
        read_prompts(tmp_path / "prompts.txt")


def test_a_mark_of_an_encoding_that_it_is_not_in(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(ValueError, match="is not utf-16"):
        read_text(tmp_path / "prompts.txt")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(tmp_path / "prompts.txt")
