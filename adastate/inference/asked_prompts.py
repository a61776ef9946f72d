"""What `adastate generate` is asked to show: its prompts, what the model is told for them, and how it is steered."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adastate.inference import prompt_schedule
from adastate.inference.prompt_schedule import TimedPrompt
from adastate.runtime.text_files import read_lines
from adastate.stream import action_schedule
from adastate.stream.action_schedule import ActionCue

ANIMATED_SECONDS = 60.0
LONGEST_S = 1e6
"""Seconds of a stream that can be asked for: eleven days, whose chunks are listed before the first is made."""


@dataclass(frozen=True)
class AskedPrompts:
    """The streams that are asked for.

    Attributes:
        prompts: one a stream, as files and records name it.
        told: what the model is told for each.
        listed: how many there are without `--most`.
        timed: the parts of the one stream of a schedule; empty where each prompt is a stream.
        actions: by which all streams are steered; a file has a row for each latent frame.
    """

    prompts: Sequence[str]
    told: Sequence[str]
    listed: int
    timed: Sequence[TimedPrompt]
    actions: Sequence[ActionCue] | Path

    @property
    def texts(self) -> list[str]:
        """All that the model is told."""
        return [prompt.text for prompt in self.timed] if self.timed else list(self.told)


def asked_prompts(args: argparse.Namespace) -> AskedPrompts:
    """Reads what a command line and its files ask for.

    Raises:
        ValueError: what does not go together, or no prompt.
    """
    timed = prompt_schedule.parse_prompts(args.prompt)
    _check(args, scheduled=timed is not None)
    prompts, told = _prompts(args)
    if timed:
        prompt_schedule.check_prompt_times(timed, args.seconds)
        prompts, told = [" | ".join(f"{prompt.at}: {prompt.text}" for prompt in timed)], [timed[0].text]
    if not prompts:
        raise ValueError('no prompt; give --prompt "..." or --prompts file')
    actions: Sequence[ActionCue] | Path = action_schedule.parse_actions([] if _is_file(args.actions) else args.actions)
    if not isinstance(actions, Path):
        action_schedule.check_cue_times(actions, args.seconds)
    if _is_file(args.actions):
        actions = Path(args.actions[0])
        if not actions.is_file():
            raise ValueError(f"there is no file of actions {actions}; `adastate cameras` writes one")
    return AskedPrompts(prompts[: args.most], told[: args.most], len(prompts), timed or [], actions)


def scheduled_lines(file: Path, lines: Sequence[str]) -> str:
    """That the lines of a file of prompts look like one schedule, of which each will be a stream; empty otherwise."""
    try:
        looks = len(lines) > 1 and prompt_schedule.parse_prompts(lines) is not None
    except ValueError:
        looks = True
    told = "each line of a file is a stream of its own; the parts of one stream are given by several --prompt"
    return f"adastate generate: note: the lines of {file} begin with times, and {told}" if looks else ""


def _is_file(actions: Sequence[str]) -> bool:
    return len(actions) == 1 and actions[0].endswith(".npy")


def _check(args: argparse.Namespace, scheduled: bool) -> None:
    """What the command line alone shows to be wrong."""
    if any(not prompt.strip() for prompt in args.prompt):
        raise ValueError('--prompt is empty: describe what to show, --prompt "..."')
    if args.seconds > LONGEST_S:
        raise ValueError(f"--seconds {args.seconds:g} is more than {LONGEST_S:,.0f}, eleven days: give less")
    if args.image and args.latents:
        raise ValueError("--image and --latents both determine the beginning of the stream: give one of them")
    if args.prompts_extended and (args.prompt or not args.prompts):
        raise ValueError("--prompts-extended goes line by line with --prompts alone")
    if args.samples and args.layout != "vbench":
        raise ValueError("--samples belongs to --layout vbench")
    if args.layout == "vbench" and args.states:
        raise ValueError("--states would be measured as a part of the video: leave it out with --layout vbench")
    if args.animated and (args.layout == "vbench" or args.seconds > ANIMATED_SECONDS):
        raise ValueError(f"--animated is for pages: at most {ANIMATED_SECONDS:g} seconds, and not for VBench")
    if args.layout == "vbench" and scheduled:
        raise ValueError("a schedule of prompts is one stream, and VBench takes one prompt per video")
    if args.prompts and scheduled:
        raise ValueError(
            "the --prompt with times are parts of one stream: leave out --prompts, whose lines are streams"
        )


def _prompts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """(prompts, what the model is told for each)."""
    listed = read_lines(args.prompts) if args.prompts else []
    told = listed
    if args.prompts_extended:
        told = read_lines(args.prompts_extended)
        if len(told) != len(listed):
            raise ValueError(
                f"{args.prompts_extended} has {len(told)} lines, {args.prompts} has {len(listed)}: they go line by line"
            )
    pairs = [(p, t) for p, t in zip(listed, told, strict=True) if p]
    for prompt, extended in pairs:
        if not extended:
            raise ValueError(f"{args.prompts_extended} has an empty line for the prompt {prompt[:60]!r}")
    both = [(p, p) for p in args.prompt] + pairs
    return [p for p, _ in both], [t for _, t in both]
