"""TAEHV, the tiny autoencoder of Wan2.1's latents, under the names of its published weights.

https://github.com/madebyollin/taehv (MIT), file taew2_1.pth: 2D convolutions whose only view of time is, in some
blocks, the block's own input at the frame before.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adastate.encoders.hub import EncoderError
from adastate.encoders.interfaces import StreamDecoder
from adastate.runtime import file_kind
from adastate.runtime.spelling import one_line

FETCH = "`curl -L --create-dirs -o {} https://github.com/madebyollin/taehv/raw/main/taew2_1.pth`"

STEP = 4
"""Pictures a latent, before the first three of a clip are dropped."""


class Clamp(nn.Module):
    """Softly into (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


class MemBlock(nn.Module):
    """Residual block over a frame and the one before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.cat([x, past], 1)) + x)


class TPool(nn.Module):
    """`stride` frames into one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(stride * width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))


class TGrow(nn.Module):
    """One frame into `stride`."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, stride * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(-1, *x.shape[1:])


class TAEHV(nn.Module):
    """TAEHV in the place of Wan's VAE: F latents <-> 4F - 3 pictures, x8 in space, far cheaper, a little less sharp.

    It takes and gives the latents as the DiT has them: the normalisation is in its weights. The decoder makes four
    pictures of every latent; the first three of a clip are dropped, as Wan's first latent stands for one picture.
    Likewise the encoder takes four pictures a latent; a clip is filled up by repeating its last one.

    What was checked: names and shapes against its public code, and the arithmetic with random weights; the released
    file itself was not at hand.

    Args:
        weights: taew2_1.pth, or the same as safetensors; None starts from random weights.

    Raises:
        FileNotFoundError: there is no such file.
        EncoderError: the file holds something else.
    """

    scale = 8
    channels = 16

    def __init__(self, weights: str | None = "weights/taew2_1.pth", fps: int = 16) -> None:
        super().__init__()
        self.fps = fps
        encoder: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
        for stride in (2, 2, 1):
            encoder += [TPool(64, stride), nn.Conv2d(64, 64, 3, 2, 1, bias=False), *(MemBlock(64) for _ in range(3))]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(64, self.channels, 3, padding=1))
        decoder: list[nn.Module] = [Clamp(), nn.Conv2d(self.channels, 256, 3, padding=1), nn.ReLU()]
        for width, then, stride in ((256, 128, 1), (128, 64, 2), (64, 64, 2)):
            decoder += [*(MemBlock(width) for _ in range(3)), nn.Upsample(scale_factor=2), TGrow(width, stride)]
            decoder += [nn.Conv2d(width, then, 3, padding=1, bias=False)]
        self.decoder = nn.Sequential(*decoder, nn.ReLU(), nn.Conv2d(64, 3, 3, padding=1))
        if weights is not None:
            self._load(Path(weights))
        self.eval().requires_grad_(False)

    def video_frames(self, frames: int) -> int:
        return STEP * frames - 3

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Video `[B, 4F - 3, 3, h, w]` in [-1, 1] -> latents `[B, F, 16, h/8, w/8]`."""
        if video.shape[1] % STEP != 1 or video.shape[-1] % self.scale or video.shape[-2] % self.scale:
            raise ValueError(
                f"video of {video.shape[1]} frames of {video.shape[-2]} x {video.shape[-1]}: TAEHV takes 4F - 3 "
                f"pictures (1, 5, 9, ... 81), with sides divisible by {self.scale}"
            )
        video = torch.cat([video, video[:, -1:].expand(-1, STEP - 1, -1, -1, -1)], 1)
        memory: dict[str, Tensor] = {}
        x = (video.to(self.dtype) + 1) / 2
        return torch.cat([_advance(self.encoder, part, memory) for part in x.split(STEP, 1)], 1).float()

    def decode(self, latents: Tensor) -> Tensor:
        return self.stream().decode(latents)

    def stream(self) -> StreamDecoder:
        return _Stream(self)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no TAEHV weights at {path}; fetch them with {FETCH.format(path)}")
        theirs = _read(path)
        ours = self.state_dict()
        missing, other = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        shapes = [n for n, t in ours.items() if n in theirs and theirs[n].shape != t.shape]
        wrong = [f"lacks {len(missing)} of {len(ours)} weights ({missing[0]}, ...)"] if missing else []
        wrong += [f"has {len(other)} that are none of its ({other[0]}, ...)"] if other else []
        wrong += [
            f"has {n} of shape {tuple(theirs[n].shape)} where {tuple(ours[n].shape)} is needed" for n in shapes[:1]
        ]
        if wrong:
            raise EncoderError(f"{path} is not TAEHV for Wan2.1, taew2_1.pth: it {', '.join(wrong)}")
        self.load_state_dict(theirs)


class _Stream:
    """One stream with its own memory; a latent at a time, as 12 pictures at once would take three times the room."""

    def __init__(self, codec: TAEHV) -> None:
        self.codec = codec
        self.memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        out = []
        for frame in latents.to(self.codec.dtype).split(1, 1):
            first = not self.memory
            pictures = _advance(self.codec.decoder, frame, self.memory)
            out.append(pictures[:, STEP - 1 :] if first else pictures)
        return (2 * torch.cat(out, 1).float() - 1).clamp(-1, 1)


def _advance(net: nn.Sequential, x: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """`net` on the frames `[B, T, C, H, W]` that follow those in `memory` (by block, its last input), which advances.

    Before the first frame there is nothing: zeros.
    """
    batch, x = len(x), x.flatten(0, 1)
    for i, block in enumerate(net):
        if isinstance(block, MemBlock):
            now = x.unflatten(0, (batch, -1))
            before = memory.get(str(i), torch.zeros_like(now[:, :1]))
            memory[str(i)] = now[:, -1:].clone()
            x = block(x, torch.cat([before, now[:, :-1]], 1).flatten(0, 1))
        else:
            x = block(x)
    return x.unflatten(0, (batch, -1))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file; nothing in it is ever executed."""
    try:
        if file_kind.kind(path) == "safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except file_kind.NoWeightsError as error:
        raise EncoderError(str(error)) from error
    except Exception as error:  # whatever a broken file makes the unpickler stumble over
        reason = one_line(error, 100)
        raise EncoderError(f"{path} cannot be read as weights ({reason}): fetch it again") from error
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise EncoderError(f"{path} is not TAEHV for Wan2.1, taew2_1.pth: it holds more than tensors by name")
    return content
