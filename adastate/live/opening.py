"""Loads a model for streaming, and opens sessions of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from adastate.inference import conditioning
from adastate.inference.conditioning import Prefix
from adastate.inference.student_source import RUN_FILE, student_source
from adastate.launch.shared_ranks import meet
from adastate.live.model import LiveModel
from adastate.live.session import HISTORY, Session
from adastate.live.snapshot import Snapshot
from adastate.runtime.argument_types import DEVICE
from adastate.runtime.python_arguments import whole_number
from adastate.runtime.ranks import Rank, device_for, this_rank

ALONE = Rank(0, 1, 0)


def load_live(
    run_or_weights: str | Path | None = None,
    size: str | None = None,
    system: str | None = None,
    device: str | torch.device | None = None,
    overrides: Sequence[str] = (),
    sequence_parallel: int = 1,
) -> LiveModel:
    """Loads a model for streaming.

    Args:
        run_or_weights: folder of a run, or weights in any format of docs/reference/weights.md, for which `size` gives
            the geometry; None: the bundled tiny student.
        size: name in conf/sizes, or a file of that form.
        system: name in conf/systems of the stream to run; None: the one that the weights were trained for.
        device: None: a GPU if there is one.
        overrides: keys of the size's configuration, "--stream.past_frames=6".
        sequence_parallel: number of processes that share every pass; each has to make the same calls.

    Raises:
        ConfigError, FileNotFoundError, WeightsError: the run, size, system or weights do not exist or do not fit.
        ValueError: the program runs as another number of processes, or the network is not divisible by it.
    """
    if isinstance(device, str) and not DEVICE.fullmatch(device):
        remedy = "say cuda" if device.lower() in ("gpu", "nvidia") else "give cpu, cuda, or cuda:1 for the second"
        raise ValueError(f"there is no device {device!r}; {remedy}")
    path = None if run_or_weights is None else Path(run_or_weights)
    rank = this_rank(os.environ) if sequence_parallel > 1 else ALONE
    if sequence_parallel > 1 and rank.world != sequence_parallel:
        raise ValueError(
            f"sequence_parallel is {sequence_parallel}, and this program runs as {rank.world} "
            f"process{'es' * (rank.world > 1)}: start it by `torchrun --nproc-per-node {sequence_parallel} FILE`"
        )
    place = device_for(str(device or ("cuda" if torch.cuda.is_available() else "cpu")), rank)
    if path is not None and ((path / RUN_FILE).is_file() or (path.is_dir() and size is None)):
        source = student_source(path, None, size, None, overrides)
    else:
        source = student_source(None, path, size or "tiny", system, overrides)
    split = meet(sequence_parallel, place.type) if sequence_parallel > 1 else None
    return LiveModel.of(source, place, system, split)


def open_session(
    model: LiveModel,
    prompt: str,
    seed: int = 0,
    system: str | None = None,
    image: str | Path | Image.Image | None = None,
    history: int = HISTORY,
    script: Sequence[Mapping[str, Any]] = (),
) -> Session:
    """Opens a stream that can be steered while it is generated, see Session.

    Args:
        system: another system than the model's; for a given seed the noise is the same in all systems.
        image: a picture that precedes the stream.
        script: controls of an earlier session, each applied again in its chunk.

    Raises:
        ValueError: unknown system, empty prompt, a file that is not a picture, or an invalid control in the script.
    """
    whole_number("seed", seed)
    whole_number("history", history)
    for entry in script if isinstance(script, Sequence) else [script]:
        if not isinstance(entry, Mapping):
            raise ValueError(f"a script is a list of controls, as Session.script has them, and not {entry!r}")
    given = None if image is None else picture_before(model, image).batch([0])
    return Session(model, prompt, seed, system, given, history, script)


def restore_session(model: LiveModel, snapshot: Snapshot | str | Path, history: int = HISTORY) -> Session:
    """Opens a session that continues from a snapshot, or from a snapshot file.

    Raises:
        ValueError: it is not a snapshot, or was made with other weights.
    """
    if not isinstance(snapshot, Snapshot):
        snapshot = Snapshot.load(snapshot)
    session = Session(model, snapshot.prompt, snapshot.seed, snapshot.system, history=history)
    session.restore(snapshot)
    return session


def picture_before(model: LiveModel, image: str | Path | Image.Image) -> Prefix:
    """The latents that precede a stream which begins with a picture."""
    return conditioning.picture_prefix(image, model.codec, model.student.latent_size, 1, model.device)
