"""Files that are no weights are told by what they are, whatever their name."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adastate.main import main
from adastate.runtime.file_kind import NoWeightsError, kind

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2838276440\n"


def _zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("wan/model.safetensors", b"x")
    return data.getvalue()


BAD = {
    "an LFS pointer": (POINTER, r"is a Git LFS pointer and not the weights of a file of 2\.84 GB: run `git lfs pull`"),
    "a page": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "is a web page and no weights: .*hf auth login"),
    "a page in XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    "a message": (b"Invalid username or password.", r"is text \('Invalid username or password\.'\) and no weights"),
    "JSON": (b'{\n  "error": "gated"\n}', "is text .*error.* and no weights"),
    "a gguf file": (b"GGUF\x03\0\0\0" + bytes(99), "is a gguf file, whose weights are quantised; give the"),
    "a zip archive": (_zip(), r"is a zip archive and no PyTorch file \(it holds wan/model.safetensors\): unpack it"),
    "a gzip archive": (gzip.compress(b"x"), "is a gzip archive; unpack it"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is an image or a recording, not weights; give their"),
    "a video": (b"\0\0\0\x18ftypisom" + bytes(99), "is a video, not weights; give their"),
    "a paper": (b"%PDF-1.7\n" + bytes(99), "is a PDF, not weights"),
    "nothing": (b"", "is empty: .*download it again, with `hf download"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, content: bytes, sentence: str, suffix: str) -> None:
    path = tmp_path / f"wan{suffix}"
    path.write_bytes(content)
    with pytest.raises(NoWeightsError, match=rf"wan\{suffix} {sentence}"):
        kind(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x"])
def test_the_content_tells_the_two_kinds(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file({"a": torch.ones(300)}, path)
    assert kind(path) == "safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NoWeightsError, match=r"not a whole safetensors file \(it breaks off after .* bytes of 1,\d+\)"):
        kind(path)
    for modern in (True, False):
        torch.save({"a": torch.ones(300)}, path, _use_new_zipfile_serialization=modern)
        assert kind(path) == "torch" or (not modern and name == "x.safetensors")
    torch.save({"a": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(NoWeightsError, match="is not a whole PyTorch file"):
        kind(path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.gguf"])
@pytest.mark.parametrize("folder", [True, False])
def test_the_command_says_it_in_one_line(tmp_path: Path, name: str, folder: bool) -> None:
    path = tmp_path / name
    path.write_bytes(b"GGUF" + bytes(64) if name.endswith("gguf") else POINTER)
    with pytest.raises(SystemExit) as told:
        main(["weights", "inspect", str(tmp_path if folder else path)])
    assert str(told.value).lower().startswith(f"adastate: {path} is a g".lower()) and "\n" not in str(told.value)
