"""Streams from Python: `adastate.load()` returns a Model, which makes steps, sessions, files and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from adastate.distributed.sequence_split import agreed
from adastate.encoders.hub import is_hub_name
from adastate.evaluation.evaluate import evaluate_student
from adastate.evaluation.metrics_table import MetricsRow
from adastate.hub.pull import cached
from adastate.inference import prompt_schedule
from adastate.inference.vbench import Item
from adastate.inference.video_length import chunk_starts, frame_starts, frames_for
from adastate.inference.video_writer import Plan, write_videos
from adastate.live.model import LiveModel
from adastate.live.opening import ALONE, load_live, open_session, picture_before, restore_session
from adastate.live.session import HISTORY, Session
from adastate.live.snapshot import Snapshot
from adastate.live.step import Step
from adastate.media.strip import strip
from adastate.media.video import file_name
from adastate.runtime.python_arguments import prompt_texts, whole_number
from adastate.runtime.writable import check_writable
from adastate.stream import PromptSwitch, action_schedule
from adastate.weights.sources import SUFFIXES


def load(
    run_or_weights: str | Path | None = None,
    size: str | None = None,
    system: str | None = None,
    device: str | torch.device | None = None,
    sequence_parallel: int = 1,
) -> Model:
    """A model that streams.

    Args:
        run_or_weights: folder of a run; or weights in any format of docs/reference/weights.md, whose geometry `size`
            gives; or "owner/name" of a run on the Hub, which is downloaded into its cache; None: the bundled tiny
            student.
        size: name in conf/sizes, or a file of that form.
        system: name in conf/systems of the stream to run; None: the one that the weights were trained for.
        device: None: a GPU if there is one.
        sequence_parallel: processes that share every pass, one per GPU. `torchrun --nproc-per-node 2 FILE` runs a
            program as two processes; both make the same calls and get the same frames, and the first writes files.

    Raises:
        ConfigError, FileNotFoundError, HubError, WeightsError: no such run, size, system or weights, in one sentence.
        ValueError: the processes do not exist, or the network cannot be divided over them.
    """
    name = str(run_or_weights)
    if not Path(name).exists() and is_hub_name(name) and Path(name).suffix not in SUFFIXES:
        run_or_weights = cached(name)
    return Model(load_live(run_or_weights, size, system, device, sequence_parallel=sequence_parallel))


class Model:
    """Weights, their codec and text encoder, ready to stream. Made by `load`."""

    def __init__(self, live: LiveModel) -> None:
        self.live = live

    @property
    def fps(self) -> int:
        """Frames per second of its video."""
        return self.live.fps

    @property
    def width(self) -> int:
        return self.live.width

    @property
    def height(self) -> int:
        return self.live.height

    @property
    def system(self) -> str | None:
        """The system that it was loaded with; None: the stream that the weights were trained for."""
        return self.live.system

    @property
    def systems(self) -> list[str]:
        """The systems of conf/systems that it can run, with the same weights."""
        return self.live.systems

    @property
    def world(self) -> str | None:
        """The built-in world whose words its prompts consist of; None if prompts are free text."""
        return self.live.world

    @property
    def vocabulary(self) -> list[str]:
        """The words of that world."""
        return self.live.vocabulary

    @property
    def examples(self) -> list[str]:
        """Example prompts."""
        return self.live.examples

    @property
    def actions(self) -> int:
        """Number of keys of adastate.stream.action_schedule.KEYS that steer it; 0: it accepts no actions."""
        return self.live.actions

    def session_bytes(self, system: str | None = None, history: int = HISTORY) -> int:
        """The maximum memory of a session, in bytes."""
        return self.live.session_bytes(system, history)

    def session(
        self,
        prompt: str,
        seed: int = 0,
        system: str | None = None,
        image: str | Path | Image.Image | None = None,
        history: int = HISTORY,
        script: Sequence[Mapping[str, Any]] = (),
    ) -> Session:
        """A stream that can be controlled while it is generated, see Session.

        Args:
            system: another system than the model's; the noise of a seed is the same for all systems.
            image: an image that precedes the stream as its first frame.
            script: controls of an earlier session; each is applied again in its chunk.

        Raises:
            ValueError: unknown system, no prompt, a file that is not an image, or an invalid control in the script.
        """
        return open_session(self.live, prompt, seed, system, image, history, script)

    def restore(self, snapshot: Snapshot | str | Path, history: int = HISTORY) -> Session:
        """A session that continues from a snapshot, or from the file of one."""
        return restore_session(self.live, snapshot, history)

    def chunks(self, seconds: float, image: bool = False) -> int:
        """Number of chunks of a stream of that length, with or without an image before it."""
        spec, codec, given = self.live.spec(None), self.live.codec, int(image)
        return len(chunk_starts(frames_for(seconds, codec, spec, given), codec, spec, given))

    def stream(
        self,
        prompt: str | Sequence[str],
        seconds: float = 6.0,
        seed: int = 0,
        image: str | Path | Image.Image | None = None,
        actions: str | Sequence[str] | None = None,
    ) -> Iterator[Step]:
        """Streams chunk by chunk; each step has the frames of a chunk and its decoded hidden state.

        Args:
            prompt: one prompt, or a schedule, ["0s: ...", "4s recache: ..."].
            seconds: minimum length of the video.
            actions: steering, "left", or a schedule, ["0s: straight", "2s: left+climb"].

        Raises:
            ValueError: invalid arguments; raised by the call itself, not with the first step.
        """
        prompts = prompt_texts(prompt)
        timed = prompt_schedule.parse_prompts(prompts)
        if timed is None and len(prompts) != 1:
            raise ValueError(f"a stream has one prompt, or a schedule of prompts with times, not {len(prompts)}")
        spec, codec, given = self.live.spec(None), self.live.codec, 0 if image is None else 1
        frames = frames_for(seconds, codec, spec, given)
        starts = chunk_starts(frames, codec, spec, given)
        session = self.session(timed[0].text if timed else prompts[0], seed, image=image, history=0)
        turns = prompt_schedule.prompts_by_chunk(timed or [], starts, seconds)
        held = self._actions(actions, frames, given, seconds)
        for turn in turns.values():
            spec.check_switch(turn.policy(spec.switch) or spec.switch)

        def made() -> Iterator[Step]:
            before: Tensor | None = None
            for chunk in range(len(starts)):
                if turn := turns.get(chunk):
                    session.prompt(turn.text, turn.kind, "reset" if turn.reset else None)  # type: ignore[arg-type]
                if held is not None:
                    first = spec.frames_of(0) + (chunk - 1) * spec.chunk_frames if chunk else 0
                    now = held[0, first]
                    if before is None or not torch.equal(before, now):
                        session.act(action_schedule.label(now[None]).replace("-", ""))
                    before = now
                yield session.step()

        return made()

    def generate(
        self,
        prompts: str | Sequence[str],
        out: str | Path = "generated",
        seconds: float = 6.0,
        seed: int = 0,
        image: str | Path | Image.Image | None = None,
        actions: str | Sequence[str] | None = None,
        states: bool = False,
    ) -> list[Path]:
        """Writes mp4 files as `adastate generate` does: one per prompt, or one for a schedule of prompts.

        Args:
            out: folder of the files.
            states: show the decoded state to the right of the video.
        """
        told, folder = prompt_texts(prompts), Path(out)
        if not told:
            raise ValueError("no prompt: give at least one text")
        whole_number("seed", seed)
        check_writable(folder, "give another folder as out")
        student, spec = self.live.student, self.live.spec(None)
        timed = prompt_schedule.parse_prompts(told)
        texts = [timed[0].text] if timed else told
        items = [Item(i, text, text, f"{file_name(text, i)}.mp4", i) for i, text in enumerate(texts)]
        given = None if image is None else picture_before(self.live, image)
        before = 0 if given is None else given.frames
        frames = frames_for(seconds, student.codec, spec, before)
        starts = chunk_starts(frames, student.codec, spec, before)
        turns = prompt_schedule.prompts_by_chunk(timed or [], starts, seconds)
        switches = {at: PromptSwitch([turn.text], turn.policy(spec.switch)) for at, turn in turns.items()}
        held = self._actions(actions, frames, before, seconds)
        plan = Plan(frames, seed, spec, folder, folder, given, switches, states, held)
        split = self.live.split
        write_videos(student, plan, items, ALONE, len(items), sheet=False, resume=False, split=split)
        if split is not None:
            agreed(split, "written")
        return [folder / item.name for item in items]

    def evaluate(
        self, rollouts: int = 32, horizon: int = 6, prompts: Sequence[str] | None = None, seed: int = 4242
    ) -> list[MetricsRow]:
        """The figures of `adastate evaluate` for the student and for real clips.

        Args:
            rollouts: minimum number of streams to measure.
            horizon: their length in training horizons.
            prompts: None: prompts of the model's world, for which the truth is known.
        """
        told = None if prompts is None else prompt_texts(prompts)
        if told == []:
            raise ValueError("no prompt: give at least one text, or none for prompts of the model's world")
        whole_number("rollouts", rollouts, 1)
        whole_number("horizon", horizon, 1)
        return evaluate_student(self.live.student, rollouts, horizon, told, seed, world=self.live.world)

    def strip(self, steps: Sequence[Step]) -> Image.Image:
        """One image of the steps: time runs to the right, and the hidden states are below their chunks."""
        if not steps:
            raise ValueError("no steps: give at least one")
        videos = [step.video.movedim(-1, 1)[None] for step in steps]
        states = [None if step.state is None else step.state.movedim(-1, 1)[None] for step in steps]
        return strip(videos, states, prompts=[steps[0].prompt], fps=self.fps)

    def _actions(self, actions: str | Sequence[str] | None, frames: int, given: int, seconds: float) -> Tensor | None:
        if actions is None:
            return None
        if not self.actions:
            raise ValueError("this network cannot be steered, because its size has no `actions`: leave them out")
        cues = action_schedule.parse_actions([actions] if isinstance(actions, str) else list(actions))
        return action_schedule.action_rows(cues, frame_starts(frames, self.live.codec, given), self.actions, seconds)
