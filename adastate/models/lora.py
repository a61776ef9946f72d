"""LoRA: the network's weights are frozen; low-rank factors beside its linear layers are trained (arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from adastate.models.video_network import VideoNetwork


@dataclass(frozen=True)
class Lora:
    """Adapters W + (alpha / rank) B A, by peft; A is random and B zero, so that the network starts unchanged.

    Attributes:
        rank: r, width of the factors.
        alpha: scale of the adapters, times the rank; None: the rank, so that the scale is 1.
        dropout: of the adapters' input in passes with gradient. It uses torch's own generator, so a resumed run is then
            not bit-identical, and runs on one and two processes differ.
        targets: the linear layers with adapters, by the end of their names; the default is all of every block, as in
            LongLive.
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "k", "v", "o", "ffn.0", "ffn.2")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora rank {self.rank}: the width of the factors must be at least 1")
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"lora alpha {self.alpha}: the scale of the adapters must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora dropout {self.dropout}: the share of dropped inputs must lie in [0, 1)")
        if not self.targets:
            raise ValueError('lora targets are empty: name linear layers such as "q" or "ffn.0"')


def adapt(net: VideoNetwork, lora: Lora | None, weights: str | None) -> None:
    """Adds adapters to `net`, which holds `weights`, and freezes the rest; without `lora` does nothing.

    Raises:
        ValueError: for random weights, which no checkpoint would store, and for targets that are not linear layers.
        ModuleNotFoundError: without peft.
    """
    if lora is None:
        return
    if weights is None:
        raise ValueError("lora needs a network with weights from a file, but none are given: set the network's weights")
    linear = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    chosen = {target: [n for n in linear if f".{n}".endswith(f".{target}")] for target in lora.targets}
    if wrong := [target for target, layers in chosen.items() if not layers]:
        known = ", ".join(dict.fromkeys(n.split(".", 2)[2] if n.startswith("blocks.") else n for n in linear))
        raise ValueError(f"lora target {wrong[0]!r} matches the end of no linear layer's name; available are {known}")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ModuleNotFoundError("lora needs peft: pip install -e '.[lora]'") from error
    inject_adapter_in_model(
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.rank if lora.alpha is None else lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=sorted({name for layers in chosen.values() for name in layers}),
        ),
        net,
    )
