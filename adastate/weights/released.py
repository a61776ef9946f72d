"""Students that others have released: how their files look, how each is started, and which networks are no students.

Names and layouts were read in their repositories and in projects that load them; none of the files was at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adastate.weights import key_maps
from adastate.weights.files import StoredTensor, WeightsError


@dataclass(frozen=True)
class ReleasedStudent:
    """A student by its name.

    Attributes:
        repository: on the Hub.
        file: in the repository; a folder where it ends in a slash.
        network: which of the file's networks is the student; empty where there is one.
        system: of conf/systems.
        options: of `adastate generate`, beside size and system.
        base: file that this one changes, for a LoRA.
    """

    name: str
    repository: str
    file: str
    network: str
    system: str
    options: str = ""
    base: str = ""

    @property
    def known_by(self) -> tuple[str, ...]:
        """Last parts of the path of its file, as far as they tell it from others."""
        if self.file.endswith("/"):
            return (self.repository.partition("/")[2],)
        parts = Path(self.file).parts
        return parts[-2:] if parts[-1] == "causal_forcing.pt" else parts[-1:]

    def start(self, weights: str) -> str:
        """The command that streams it."""
        options = f" {self.options}" if self.options else ""
        return f"adastate generate --weights {weights} --size wan_1_3b --system {self.system}{options}"


RELEASED = (
    ReleasedStudent(
        "Self-Forcing", "gdhe17/Self-Forcing", "checkpoints/self_forcing_dmd.pt", "generator_ema", "self_forcing"
    ),
    ReleasedStudent(
        "LongLive 1", "Efficient-Large-Model/LongLive-1.3B", "models/longlive_base.pt", "generator", "longlive"
    ),
    ReleasedStudent(
        "LongLive 1, tuned", "Efficient-Large-Model/LongLive-1.3B", "models/lora.pt", "generator_lora", "longlive",
        base="models/longlive_base.pt",
    ),
    ReleasedStudent(
        "Causal-Forcing, by chunks", "zhuhz22/Causal-Forcing", "chunkwise/causal_forcing.pt", "generator",
        "causal_forcing",
    ),
    ReleasedStudent(
        "Causal-Forcing, by frames", "zhuhz22/Causal-Forcing", "framewise/causal_forcing.pt", "generator_ema",
        "causal_forcing", "--stream.chunk_frames=1 --stream.past_frames=20",
    ),
    ReleasedStudent(
        "Reward-Forcing", "JaydenLu666/Reward-Forcing-T2V-1.3B", "rewardforcing.pt", "generator_ema", "reward_forcing"
    ),
    ReleasedStudent(
        "Rolling-Forcing", "TencentARC/RollingForcing", "checkpoints/rolling_forcing_dmd.pt", "generator_ema",
        "rolling_forcing",
    ),
    ReleasedStudent(
        "Self-Forcing, FastVideo's", "wlsaidhi/SFWan2.1-T2V-1.3B-Diffusers", "transformer/", "", "self_forcing"
    ),
)  # fmt: skip
"""All of them are of Wan2.1-T2V-1.3B's size."""


def student_at(source: Path) -> ReleasedStudent | None:
    """The student whose file a path seems to be, by its name; names of many projects, such as lora.pt, tell nothing."""
    for student in RELEASED:
        known = student.known_by
        inside = student.file.endswith("/") and known[0] in source.parts
        if not student.base and (inside or source.parts[-len(known) :] == known):
            return student
    return None


def note_of(source: Path) -> tuple[str, ...]:
    """What the report says where a path is named as a released student is."""
    student = student_at(source)
    if student is None:
        return ()
    options = f" {student.options}" if student.options else ""
    return (f"named as the student of {student.name}, which streams with --system {student.system}{options}",)


SPARSE = ".to_gate_compress."
"""Layers that FastVideo's video sparse attention adds."""


def refuse(entries: Mapping[str, StoredTensor], path: Path) -> None:
    """Raises WeightsError for networks of Wan's kind that a stream cannot run, and says which they are."""
    _refuse_pictures(entries, path)
    if sparse := next((name for name in entries if SPARSE in name), None):
        raise WeightsError(
            f"{path} is a network with FastVideo's sparse attention, as FastWan2.1 is (it has {sparse}): it denoises "
            "whole clips and has gates that this network has not; bring a causal student, such as "
            "wlsaidhi/SFWan2.1-T2V-1.3B-Diffusers"
        )


def _refuse_pictures(entries: Mapping[str, StoredTensor], path: Path) -> None:
    extra = [name for name in entries if key_maps.PICTURES.search(name)]
    patch, out = entries.get("patch_embedding.weight"), entries.get("head.head.weight")
    into = patch.shape[1] if patch is not None and len(patch.shape) == 5 else 0
    per_patch = patch.shape[3] * patch.shape[4] if patch is not None and into else 1
    made, odd = divmod(out.shape[0], per_patch) if out is not None else (into, 0)
    if not extra and (into <= made or odd):
        return
    why = f"it has {extra[0]}" if extra else f"it takes {into} channels and makes {made}"
    form = ""
    if (into, made) == (36, 16):
        form = " of Wan2.1-I2V's form" if extra else " of Wan2.2-I2V-A14B's form"
    raise WeightsError(
        f"{path} is an image-to-video network{form} ({why}); the networks here are text-to-video, and are given a "
        "first picture through their cache, for a chunk has no place for the picture's mask, latents and embedding "
        "that such a network wants beside every frame: use Wan2.1-T2V weights"
    )
