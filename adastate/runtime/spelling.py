"""Words of messages: what a word that is not there may have meant, and what an error says in a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def likeliest_word(word: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The word of `known` that looks most like another, of `-p` the option that begins so; empty if none does."""
    if re.fullmatch("-[a-z]", str(word)):
        return next((option for option in known if option.startswith(f"-{word}")), "")
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)), "")


MEANINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("frames num-frames n-frames nframes video-length clip-length clip-frames", ("pictures", "seconds", "horizon")),
    ("length duration time secs len", ("seconds", "pictures", "horizon")),
    ("output o output-dir out-dir outdir output-path output-folder save save-dir dest dir folder", ("out", "run")),
    (
        "model ckpt checkpoint checkpoint-path ckpt-path model-path pretrained student weight weights",
        ("weights", "checkpoint", "run", "codec-weights", "teacher"),
    ),
    ("gpu num-gpus n-gpus ngpus cuda nproc nproc-per-node accelerator devices", ("gpus", "devices", "device")),
    ("batch-size bs batchsize", ("batch",)),
    ("text caption captions", ("prompt", "prompts")),
    ("samples num-samples n-samples num count n", ("samples", "rollouts", "clips")),
    ("resolution res", ("size", "height")),
    ("input i input-dir data data-dir dataset path video", ("videos", "image", "prompts")),
    ("run-dir logdir", ("run", "out")),
    ("num-workers j processes threads", ("workers", "jobs", "devices")),
    ("vram gpu-memory mem memory-gb ram", ("memory",)),
    ("init-image start-image first-frame start-frame", ("image",)),
    ("method methods baseline baselines", ("systems", "system")),
)
"""Words of other tools, and the options of ours that may be what they mean, likeliest first."""


def likeliest_option(word: str, options: Iterable[str]) -> str:
    """The option that a word means which is none: by its meaning, or else by its letters; empty if none does."""
    names = {option.lstrip("-"): option for option in options if option.startswith("--")}
    name = word.lstrip("-").replace("_", "-")
    meant_by = next((ours for words, ours in MEANINGS if name in words.split()), ())
    near = [name, *(known for known in names if len(name) > 3 and known.startswith(name)), *meant_by]
    found = next((known for known in near if known in names), "") or likeliest_word(name, names, cutoff=0.75)
    return names.get(found) or (likeliest_word(word, names.values()) if len(name) == 1 else "")


def meant(word: object, known: Iterable[str], otherwise: str = "", cutoff: float = 0.5) -> str:
    """The remedy for a word that is not among `known`: the nearest of them, or `otherwise`, or all."""
    known = list(known)
    near = likeliest_word(word, known, cutoff)
    return f"did you mean {near!r}?" if near else otherwise or f"known are {', '.join(known)}"


def how_many(number: int, what: str, several: str = "") -> str:
    """A number and what it counts, in the singular or plural: 1 video, 2,000 videos."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def one_line(error: BaseException, most: int) -> str:
    """The first `most` characters of what an error says; its class where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
