"""The codec of the flight world: convolutional, with residual blocks and kernels that overlap."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as nnf

from adastate.encoders.group_codec import PRETRAINED, GroupCodec

SHIPPED = {"flight": PRETRAINED / "flight_codec.safetensors"}


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nnf.silu(self.first(nnf.silu(x))))  # type: ignore[no-any-return]


class ResidualCodec(GroupCodec):
    """3 frames of h x w pixels <-> one latent frame of `channels` x h/8 x w/8.

    Every kernel is wider than its stride, in both directions, so that no border between latents shows.

    Args:
        weights: safetensors file; "flight" is the bundled codec, None starts from random weights.
        channels: latent channels.
        widths: of the convolutions at a whole, a half, a quarter and an eighth of the height and width.
        group: frames a latent frame.
        fps: frames a second.
    """

    def __init__(
        self,
        weights: str | None = "flight",
        channels: int = 32,
        widths: Sequence[int] = (32, 64, 96, 160),
        group: int = 3,
        fps: int = 8,
    ) -> None:
        super().__init__(scale=8, channels=channels, group=group, fps=fps)
        whole, half, quarter, eighth = widths
        conv = nn.Conv2d
        self.encoder = nn.Sequential(
            conv(3 * group, half, 6, 2, 2), nn.SiLU(),
            conv(half, quarter, 4, 2, 1), Residual(quarter),
            conv(quarter, eighth, 4, 2, 1), Residual(eighth), Residual(eighth), nn.SiLU(),
            conv(eighth, channels, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            conv(channels, eighth, 3, padding=1), Residual(eighth), Residual(eighth),
            *_up(eighth, quarter), Residual(quarter),
            *_up(quarter, half), Residual(half),
            *_up(half, whole), nn.SiLU(),
            conv(whole, 3 * group, 3, padding=1),
        )  # fmt: skip
        self.load(weights, SHIPPED)


def _up(width: int, then: int) -> tuple[nn.Module, nn.Module]:
    """To twice the height and width."""
    return nn.Conv2d(width, 4 * then, 3, padding=1), nn.PixelShuffle(2)
