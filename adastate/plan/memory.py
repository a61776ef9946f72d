"""Memory of a training step on one rank, as closed formulas: the constant part, and what each phase adds.

What a block saves for backward follows adastate/models/wan/dit.py line by line; tests compare it with what autograd
actually saves. All numbers are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adastate.models.video_network import Size
from adastate.plan.cost import CountedPass, action_columns, parameters, patch_width, stream_places
from adastate.stream import StreamSpec

STAGES = ("0", "1", "2", "3", "3_teacher")
"""ZeRO stages; 0 is DDP, 3_teacher shards the frozen teacher too."""

BUCKET = 50_000_000
"""Numbers per bucket of ZeRO's reductions and gathers, see ZeroStrategy; there are two, one of them in transit."""

LIVE = 1_000_000_000
"""Maximum numbers that ZeRO-3 keeps gathered: DeepSpeed's stage3_max_live_parameters."""


@dataclass(frozen=True)
class Precision:
    """Bytes per number of what a pass keeps.

    Attributes:
        low: of inputs and outputs of matrix products.
        high: of the residual stream, of normalised tokens and of modulation.
        weights: of a network's weights if a strategy shards them.
        casts: whether weights are cast for every pass: the graph keeps those copies.
        whole: whether they are cast all at once, at the beginning of the pass.
        fused: whether q and k are normalised by one kernel; otherwise two float32 copies of each are kept.
    """

    name: str
    low: int
    high: int
    weights: int = 4
    casts: bool = False
    whole: bool = False
    fused: bool = True

    @property
    def norm(self) -> int:
        """Bytes that an RMSNorm keeps per input number."""
        return self.low if self.fused else 8


FLOAT32 = Precision("float32", 4, 4)
# Autocast's operands differ in dtype from float32 norm weights, for which torch has no fused kernel.
AUTOCAST = Precision("bf16-mixed", 2, 4, casts=True, fused=False)
CAST = Precision("compute_dtype bfloat16", 2, 2, casts=True, whole=True)
BFLOAT16 = Precision("bfloat16", 2, 2, weights=2)


# ---- what a pass keeps


def block_bytes(size: Size, tokens: int, work: CountedPass, batch: int, dtype: Precision) -> int:
    """What one block keeps for backward in one pass over `batch` samples, including its input."""
    d, rows, keys = size.width, batch * work.frames * tokens, batch * work.keys * tokens
    high = 5 * dtype.high  # the stream before attention, cross-attention and ffn; two normalised
    low = 8 * dtype.low  # inputs of q, cross q and ffn; rotated q, cross q; attention's output twice, ffn's
    low += dtype.low  # outputs of the two projections after attention: only the gated one is kept
    a_token = d * (high + low + 3 * dtype.norm) + 2 * size.ffn * dtype.low
    statistics = 4 * (6 + 3 + 2 * size.heads)
    a_frame = 8 * d * dtype.high
    text = 2 * batch * size.text_tokens * d * dtype.low * dtype.casts
    return rows * (a_token + statistics) + 2 * keys * d * dtype.low + batch * work.frames * a_frame + text


def pass_bytes(size: Size, tokens: int, work: CountedPass, batch: int, dtype: Precision, checkpointing: bool) -> int:
    """What a pass over `batch` samples keeps for backward, without the keys of its prompt.

    With checkpointing a pass keeps the input of each block and, because its blocks run again, the cache as it was then.
    """
    d, rows, frames = size.width, batch * work.frames * tokens, batch * work.frames
    patch = rows * patch_width(size) * dtype.low
    time = frames * (size.time_embedding_dim + action_columns(size) + 4 * d) * dtype.low
    head = rows * (d * (2 * dtype.high + dtype.low) + 8) + frames * d * dtype.high
    kept = patch + time + head + cast_bytes(size, dtype, checkpointing)
    if not checkpointing:
        return kept + size.layers * block_bytes(size, tokens, work, batch, dtype)
    inputs = size.layers * rows * d * dtype.high + frames * 6 * d * dtype.low
    return kept + inputs + cache_bytes(size, tokens, work, batch, dtype)


def cast_bytes(size: Size, dtype: Precision, checkpointing: bool) -> int:
    """Copies of the weights that one pass's graph keeps."""
    if not dtype.casts:
        return 0
    d = size.width
    blocks = size.layers * (8 * d * d + 2 * d * size.ffn)
    ends = (7 * d + size.time_embedding_dim + action_columns(size) + 2 * patch_width(size)) * d
    # functional_call passes each block its cast weights, and keeps them for the second run
    return dtype.low * (ends + (0 if checkpointing and not dtype.whole else blocks))


def text_bytes(size: Size, batch: int, dtype: Precision) -> int:
    """What the keys of `batch` prompts keep for backward."""
    d = size.width
    low = 4 if dtype.whole else dtype.low  # `text_keys` does not cast
    norm = 8 if dtype.whole else dtype.norm
    return batch * size.text_tokens * (low * (size.text_width + 3 * d) + size.layers * d * (norm + 2 * low))


def frame_key_bytes(size: Size, tokens: int, dtype: Precision) -> int:
    """Cached keys and values of one latent frame of one sample, all layers."""
    return size.layers * tokens * size.width * 2 * dtype.low


def cache_bytes(size: Size, tokens: int, work: CountedPass, batch: int, dtype: Precision) -> int:
    """The cache as a pass sees it: raw keys and values, and those in view rotated for this chunk."""
    rotated = work.rotated * dtype.low * (1 + work.joined)
    a_frame = batch * size.layers * tokens * size.width
    return work.cached * batch * frame_key_bytes(size, tokens, dtype) + rotated * a_frame


def stream_bytes(size: Size, tokens: int, spec: StreamSpec, frames: int, batch: int, dtype: Precision) -> int:
    """The cache of `batch` streams of `frames` latent frames without gradient, from their first pass on."""
    return stream_places(spec, frames) * size.layers * batch * tokens * size.width * dtype.low


def working_bytes(size: Size, tokens: int, work: CountedPass, batch: int, dtype: Precision) -> int:
    """Maximum memory of a pass without gradient: within the ffn, or within attention."""
    rows, keys, d = batch * work.frames * tokens, batch * work.keys * tokens, size.width
    ffn = d * 2 * dtype.high + 2 * size.ffn * dtype.low
    attention = d * (2 * dtype.high + 2 * dtype.low) + d * (4 if dtype.fused else 12)
    whole = parameters(size) * dtype.low if dtype.whole else 0
    return rows * max(ffn, attention) + 2 * keys * d * dtype.low + whole


def exchange_bytes(size: Size, tokens: int, work: CountedPass, batch: int, dtype: Precision) -> int:
    """Send and receive buffers of a layer when ranks share a pass: queries, keys and values side by side, in the order
    of the ranks, and as they arrive."""
    return 3 * 3 * batch * work.frames * tokens * size.width * dtype.low


def scoring_bytes(size: Size, tokens: int, frames: int, batch: int, dtype: Precision) -> int:
    """Maximum memory of a pass over whole clips without gradient, including the keys of its prompts.

    It occurs within the ffn: the block's input, the stream, the normalised tokens, and the hidden ones before and after
    GELU; or, in wide networks, where keys are rotated in float32: the stream, the normalised tokens, queries, and keys
    before and after their norm and rotation.
    """
    d, rows = size.width, batch * frames * tokens
    ffn = 3 * d * dtype.high + 2 * size.ffn * dtype.low
    turning = d * (2 * dtype.high + 3 * dtype.low + (4 if dtype.low == 4 else 8 + dtype.low))
    prompts = 2 * batch * size.text_tokens * d * size.layers * dtype.low
    whole = parameters(size) * dtype.low if dtype.whole else 0
    return rows * max(ffn, turning) + prompts + whole


# ---- what a network keeps


@dataclass(frozen=True)
class Net:
    """A network of the run and how its passes run.

    Attributes:
        parameters: their number; for a network that is not a DiT, `size` is None.
        averaged: whether an average of its weights is kept, in float32.
        compute_dtype: whether it casts its weights itself, to bfloat16.
        drawn: whether its weights are not read from a file, but drawn at random on the host.
    """

    name: str
    parameters: int
    size: Size | None = None
    trained: bool = True
    averaged: bool = False
    checkpointing: bool = False
    compute_dtype: bool = False
    drawn: bool = False


@dataclass(frozen=True)
class States:
    """Bytes per rank for one network; gradients exist only while it is trained."""

    weights: int
    gradients: int
    optimiser: int
    ema: int
    buckets: int = 0
    """Buckets of reductions between ranks."""
    gathered: int = 0
    """Sharded weights, gathered for a pass; one network at a time."""

    @property
    def still(self) -> int:
        """The part that is always present."""
        return self.weights + self.optimiser + self.ema + self.buckets


def states(net: Net, stage: str, ranks: int, dtype: Precision) -> States:
    """What one of `ranks` ranks holds of `net`: AdamW's two moments and, under ZeRO, its float32 master weights.

    ZeRO (Rajbhandari et al. 2020): stage 1 splits the optimiser, 2 the gradients, 3 the weights.
    """
    n, zero = net.parameters, int(stage[0])
    share = -(-n // ranks)
    if not net.trained:
        if stage == "3_teacher":
            return States(share * dtype.weights, 0, 0, 0, gathered=min(n, LIVE) * dtype.weights)
        return States(n * (dtype.weights if zero else 4), 0, 0, 0)
    ema = 4 * (share if zero else n) * net.averaged
    if not zero:
        return States(4 * n, 4 * n, 8 * n, ema, 4 * n if ranks > 1 else 0)
    weights = share if zero == 3 else n
    gradients = share if zero >= 2 else n
    buckets = 2 * min(n, BUCKET) * dtype.weights
    gathered = min(n, LIVE) * dtype.weights if zero == 3 else 0
    return States(weights * dtype.weights, 4 * gradients, 12 * share, ema, buckets, gathered)


def host_bytes(net: Net, stage: str, dtype: Precision) -> int:
    """Host memory that a process uses for `net` before it is on the device, or sharded there.

    Weights from files are read straight to their destination, one at a time (adastate.models.unread); weights that
    ZeRO-3 shards are first complete on the host.
    """
    if net.drawn:
        return 4 * net.parameters * (1 + net.averaged)
    in_pieces = stage == "3_teacher" or (stage == "3" and net.trained)
    return dtype.weights * net.parameters * in_pieces


# ---- what a step adds


@dataclass(frozen=True)
class Phase:
    """A moment of a step: memory in use besides the networks, by part."""

    name: str
    parts: dict[str, int]
    learning: str
    """The network whose gradients are held."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def scored_clip_bytes(size: Size, tokens: int, frames: int, batch: int) -> int:
    """A clip in float32, its score gradient, and what the loss over them keeps in float64."""
    return 24 * batch * frames * tokens * patch_width(size)


def kept_bytes(
    size: Size, tokens: int, passes: Sequence[CountedPass], batch: int, dtype: Precision, again: bool
) -> int:
    """What all passes with gradient keep until the loss, including the keys of the prompt."""
    kept = [pass_bytes(size, tokens, p, batch, dtype, again) for p in passes if p.grad]
    return sum(kept) + (text_bytes(size, batch, dtype) if kept else 0)


def again_bytes(size: Size, tokens: int, passes: Sequence[CountedPass], batch: int, dtype: Precision) -> int:
    """Memory of the largest block that checkpointing runs again."""
    return max((block_bytes(size, tokens, p, batch, dtype) for p in passes if p.grad), default=0)
