"""Wan's VAE and UMT5 behind our interfaces, on tiny random weights in the layout of the real repositories."""

from __future__ import annotations

import hashlib
import html
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import ftfy
import pytest
import torch

from adastate.encoders import UMT5, EncoderError, WanVAE, hub
from adastate.encoders.wan_vae import clean
from adastate.main import main
from adastate.models.video_network import Size
from adastate.training.teacher import Teacher
from tests.support.wan_parts import write_parts

ROOT = Path(__file__).parents[2]
FRAMES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("wan"))


# ---- the VAE


@pytest.fixture(scope="module")
def vae(folder: Path) -> WanVAE:
    return WanVAE(str(folder), dtype=None)


@pytest.fixture(scope="module")
def video(vae: WanVAE) -> torch.Tensor:
    return torch.rand(2, vae.video_frames(FRAMES), 3, 32, 48, generator=torch.manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def latents(vae: WanVAE, video: torch.Tensor) -> torch.Tensor:
    return vae.encode(video)


@pytest.fixture(scope="module")
def whole(vae: WanVAE, latents: torch.Tensor) -> torch.Tensor:
    """The clip as diffusers itself decodes it."""
    raw = latents.transpose(1, 2) * vae.std + vae.mean
    with torch.no_grad():
        return vae.vae.decode(raw).sample.transpose(1, 2).clamp(-1, 1)


def test_latents_have_a_frame_for_every_four_pictures_and_one_for_the_first(vae: WanVAE, latents: torch.Tensor) -> None:
    assert vae.video_frames(FRAMES) == 1 + 4 * (FRAMES - 1) == 25
    assert latents.shape == (2, FRAMES, 16, 4, 6)
    with pytest.raises(ValueError, match="4F - 3 pictures, got 12"):
        vae.encode(torch.zeros(1, 12, 3, 32, 48))


def test_the_vae_is_frozen(vae: WanVAE, latents: torch.Tensor) -> None:
    assert not any(p.requires_grad for p in vae.parameters())
    assert not vae.stream().decode(latents[:, :1].clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("chunks", [(3, 3, 1), (1,) * 7, (2, 4, 1), (1, 3, 3), (7,)], ids=str)
def test_streaming_equals_decoding_the_clip_as_diffusers_does(
    vae: WanVAE, latents: torch.Tensor, whole: torch.Tensor, chunks: tuple[int, ...]
) -> None:
    stream = vae.stream()
    parts = [stream.decode(part) for part in latents.split(list(chunks), 1)]
    assert [p.shape[1] for p in parts] == [4 * chunks[0] - 3, *(4 * n for n in chunks[1:])]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_two_streams_do_not_disturb_each_other(vae: WanVAE, latents: torch.Tensor, whole: torch.Tensor) -> None:
    other = latents.flip(1)
    alone = vae.decode(other)
    assert not torch.equal(alone, whole)
    streams, parts = (vae.stream(), vae.stream()), ([], [])
    for a, b in zip(latents.split(3, 1), other.split(3, 1), strict=True):
        parts[0].append(streams[0].decode(a))
        parts[1].append(streams[1].decode(b))
        vae.decode(a)  # a hidden state, decoded as a clip of its own in between
    assert torch.equal(torch.cat(parts[0], 1), whole) and torch.equal(torch.cat(parts[1], 1), alone)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_decoder_that_is_given_the_memory_of_another_goes_on_as_that_one(
    vae: WanVAE, latents: torch.Tensor, whole: torch.Tensor, at: int
) -> None:
    first, second = vae.stream(), vae.stream()
    before = first.decode(latents[:, :at])
    second.memory = dict(first.memory)
    first.decode(latents[:, :3])
    assert torch.equal(torch.cat([before, second.decode(latents[:, at:])], 1), whole)
    assert {type(held) for held in second.memory.values()} <= {torch.Tensor, str}


def test_its_precision_is_its_own(folder: Path, vae: WanVAE, latents: torch.Tensor, whole: torch.Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vae.decode(latents), vae.decode(latents)) and torch.allclose(vae.decode(latents), whole)


def test_it_decodes_in_bfloat16_and_encodes_as_its_file_does(
    folder: Path, vae: WanVAE, video: torch.Tensor, latents: torch.Tensor, whole: torch.Tensor
) -> None:
    half = WanVAE(str(folder))
    assert {p.dtype for p in half.vae.decoder.parameters()} == {torch.bfloat16}
    off = (half.decode(latents) - whole).norm() / whole.norm()
    assert 0 < off < 0.05 and half.decode(latents).dtype == torch.float32
    stream = half.stream()
    assert torch.equal(torch.cat([stream.decode(part) for part in latents.split(3, 1)], 1), half.decode(latents))
    assert torch.equal(half.encode(video), latents), "shards hold what they would hold without"


def test_one_picture_is_one_latent_the_first_of_any_clip_that_begins_with_it(
    vae: WanVAE, video: torch.Tensor, latents: torch.Tensor, whole: torch.Tensor
) -> None:
    given = vae.encode(video[:, :1])
    assert torch.allclose(given, latents[:, :1], atol=1e-5)
    assert torch.allclose(vae.decode(given), whole[:, :1], atol=1e-4)


# ---- the text encoder


def test_umt5_pads_with_zero_rows_and_encodes_each_prompt_once(folder: Path) -> None:
    text = UMT5(str(folder), tokens=6, dtype="float32")
    found = text.embed(["a  ball\nbounces", "a ball", ""])
    assert found.shape == (3, 6, 16) and not any(p.requires_grad for p in text.model.parameters())
    assert found[0, :3].abs().sum() > 0 and found[0, 3:].abs().sum() == 0
    assert found[1, 2:].abs().sum() == 0 and found[2].abs().sum() == 0
    text.model = None  # known prompts need no model any more
    assert torch.equal(text.embed(["a ball"])[0], found[1])


class Counted:
    """Notes how many prompts the encoder is given in each call."""

    def __init__(self, text: UMT5) -> None:
        self.rows = list[int]()
        text.model.register_forward_pre_hook(lambda _, given: self.rows.append(len(given[0])))


def test_the_prompts_used_last_are_remembered_and_no_more(folder: Path) -> None:
    text = UMT5(str(folder), tokens=6, dtype="float32", keep=2)
    counted = Counted(text)
    for prompts in (["a"], ["ball"], ["a"], ["bounces", "bounces"], ["a"], ["ball"]):
        text.embed(prompts)
    assert counted.rows == [1, 1, 1, 1], "a stays, as it is in use; ball was forgotten for bounces"
    assert text.embed(["a", "ball", "bounces"]).shape == (3, 6, 16), "more at once than are kept"


def test_its_weights_stay_on_the_host_and_autocast_leaves_it_alone(folder: Path) -> None:
    text = UMT5(str(folder), tokens=6, dtype="float32")
    plain = text.embed(["a ball"])
    before = {name: p.data_ptr() for name, p in text.model.named_parameters()}
    text._known.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(text.embed(["a ball"]), plain)
    assert {name: p.data_ptr() for name, p in text.model.named_parameters()} == before


def test_the_negative_prompt_is_read_from_its_file_and_embedded_once(folder: Path, tmp_path: Path) -> None:
    text, file = UMT5(str(folder), tokens=6, dtype="float32"), tmp_path / "negative.txt"
    counted = Counted(text)
    file.write_text("bounces a\n", encoding="utf-8")
    size = Size(width=16, layers=1, heads=2, ffn=16, channels=2, text_width=16, text_tokens=6, time_embedding_dim=8)
    teacher = Teacher(size, text=text, latent_size=(4, 4), negative_prompt=str(file), average=None)
    file.unlink()
    assert teacher.negative_prompt == "bounces a"
    for prompt in ("a ball", "ball"):
        teacher.sample([prompt], frames=1, steps=2)
    assert counted.rows == [1, 1, 1], "two prompts and the negative one"


def test_the_negative_prompt_that_ships_is_the_published_one() -> None:
    text = (ROOT / "conf/prompts/wan_negative.txt").read_text(encoding="utf-8").strip()
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ce96e0324e4b54ce"
    assert clean(text) == text.replace("，", ","), "nothing else in it is cleaned away"


def test_prompts_are_cleaned_as_wan_cleans_them() -> None:
    assert clean(" a\n\tdog&amp;amp;s ‘ball’ and “cat”  ") == "a dog&s 'ball' and \"cat\""
    assert clean("ｂａｌｌ　！ cafe\u0301") == "ball ! caf\u00e9"


@pytest.mark.parametrize(
    "prompt",
    [
        "A “quoted” word, it’s here – and there…",
        "静止，整体发灰（低质量）！",
        "e\u0301 &lt;b&gt; &amp;amp; x\u00a0y",
        " two\u3000spaces\r\nand a line ",
    ],
)
def test_prompts_are_cleaned_as_ftfy_cleans_them(prompt: str) -> None:
    theirs = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    assert clean(prompt) == " ".join(theirs.split())


# ---- where pretrained parts come from


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    from huggingface_hub import constants

    def set_(port: int) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"http://127.0.0.1:{port}/{{repo_id}}/{{filename}}"
        )

    return set_


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield s.getsockname()[1]


PARTS = [(WanVAE, "Wan VAE", "vae"), (UMT5, "UMT5 tokenizer", "tokenizer")]


@pytest.mark.parametrize(("make", "name", "subfolder"), PARTS)
def test_a_hub_name_without_a_network_is_told_at_once(
    make: Callable[[str], Any],
    name: str,
    subfolder: str,
    endpoint: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint(9)
    hub.need("diffusers"), hub.need("transformers")
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(FileNotFoundError) as told:
        make("nobody/nothing-there")
    assert slept == [], "it does not wait to try again"
    assert str(told.value) == (
        f"no {name} nobody/nothing-there: there is no such folder, the hub's cache lacks it and 127.0.0.1:9 does not "
        f'answer; fetch it where there is a network, `hf download nobody/nothing-there --include "{subfolder}/*" '
        "--local-dir weights/nothing-there`, and give that folder"
    )


def test_a_hub_that_hangs_is_not_waited_for(
    endpoint: Callable[[int], None], silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint(silent)
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    with pytest.raises(FileNotFoundError, match="does not answer"):
        WanVAE("nobody/nothing-there")


def test_a_hub_that_does_not_have_it_is_told_with_its_answer(endpoint: Callable[[int], None]) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # knows no method: 501
        threading.Thread(target=server.handle_request, daemon=True).start()
        endpoint(server.server_port)
        with pytest.raises(FileNotFoundError, match=r"127\.0\.0\.1:\d+ does not give its vae/config\.json \(501\)"):
            WanVAE("nobody/nothing-there")


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE forbids access to the hub"):
        UMT5("nobody/nothing-there")


@pytest.mark.parametrize("make", [WanVAE, UMT5])
@pytest.mark.parametrize("source", ["./weights/Wan", "/nowhere/Wan", "tests/Wan", "Wan"])
def test_a_path_never_becomes_a_repository(
    make: Callable[[str], Any], source: str, endpoint: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(hub, "_unreachable", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match=r"there is no such folder; fetch it with `hf download Wan-AI/Wan2\.1"):
        make(source)


def test_a_folder_that_lacks_a_part_or_holds_half_of_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no Wan VAE in .*: that folder has no vae/config\.json; fetch it"):
        WanVAE(str(tmp_path))
    (tmp_path / "vae/config.json").write_bytes((folder / "vae/config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"the Wan VAE in .* is not whole \(.*\); fetch it with `hf download"):
        WanVAE(str(tmp_path))
    (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    with pytest.raises(
        FileNotFoundError, match=r"no UMT5 encoder in .* no text_encoder/config\.json; .*text_encoder/\*"
    ):
        UMT5(str(tmp_path))


def test_the_hub_is_asked_only_for_what_its_cache_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, calls, cached = [], [], True

    def load(source: str, local_files_only: bool) -> str:
        calls.append(local_files_only)
        if local_files_only and not cached:
            raise OSError("not in the cache")
        return source

    monkeypatch.setattr(hub, "_unreachable", lambda repository, file: asked.append((repository, file)))
    part = hub.HubPart("Wan VAE", "vae")
    assert hub.load_part("owner/name", part, load) == "owner/name" and calls == [True] and not asked
    cached = False
    assert hub.load_part("owner/name", part, load) == "owner/name"
    assert calls == [True, True, False] and asked == [("owner/name", "vae/config.json")]


def test_a_vae_without_a_subfolder(folder: Path) -> None:
    assert WanVAE(str(folder / "vae"), subfolder=None).channels == 16
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; fetch it with `hf download \S+ --local-dir"):
        WanVAE(str(folder), subfolder=None)


def test_missing_packages_are_named() -> None:
    with pytest.raises(EncoderError, match=r"need nonesuch: pip install -e '\.\[wan\]'"):
        hub.need("nonesuch")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("--codec.init_args.pretrained=./gone", "adastate: no Wan VAE in gone: there is no such folder; fetch it with"),
        ("--config=conf/codecs/taehv.yaml", "adastate: no TAEHV weights at weights/taew2_1.pth; fetch them with `curl"),
    ],
)
def test_the_command_line_says_it_in_one_sentence(
    extra: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    files = [f"--config=conf/{name}.yaml" for name in ("base", "sizes/wan_1_3b")]
    small = [f"--size.{key}" for key in ("layers=1", "width=16", "heads=2", "ffn=16")]
    small.append("--training.teacher.weights=null")  # which are missing, too
    with pytest.raises(SystemExit) as told:
        main(["fit", *files, extra, "--config=conf/stages/teacher.yaml", *small, f"--run.dir={tmp_path}"])
    assert str(told.value).startswith(said) and "\n" not in str(told.value)


def test_the_encoders_import_neither_diffusers_nor_transformers() -> None:
    code = "import sys, adastate.encoders; print({'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
