"""What a scoring pass is said to hold is what it holds, counted on tensors without data."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf
from torch.utils._python_dispatch import TorchDispatchMode

from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.plan.memory import AUTOCAST, BFLOAT16, CAST, FLOAT32, Precision, scoring_bytes

SIZES = {
    "1.3B": Size(width=1536, layers=30, heads=12, ffn=8960, text_width=4096, text_tokens=512, time_embedding_dim=256),
    "14B": Size(width=5120, layers=40, heads=40, ffn=13824, text_width=4096, text_tokens=512, time_embedding_dim=256),
}
FRAMES, LATENT = 21, (60, 104)


class Alive(TorchDispatchMode):
    """The most bytes that were alive at a time, those of `before` not counted."""

    def __init__(self, before: list[Tensor]) -> None:
        super().__init__()
        self.known = {t.untyped_storage()._cdata: 0 for t in before}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in self.known:
                storage = t.untyped_storage()
                self.known[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata)
                self.peak = max(self.peak, self.now)
        return out

    def _free(self, key: int) -> None:
        self.now -= self.known.pop(key, 0)


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, mixed: bool) -> None:
    """Fused kernels in place of what torch does without data, and autocast's casts, which it does not make there."""
    linear, layer_norm = nnf.linear, nnf.layer_norm

    def low(x: Tensor | None) -> Any:
        return x.bfloat16() if mixed and x is not None else x

    def wide(x: Tensor) -> Tensor:
        return x.float() if mixed else x

    monkeypatch.setattr(nnf, "linear", lambda x, w, b=None: linear(low(x), low(w), low(b)))
    monkeypatch.setattr(nnf, "layer_norm", lambda x, *rest, **kw: layer_norm(wide(x), *rest, **kw))
    monkeypatch.setattr(nnf, "rms_norm", lambda x, *rest, **kw: torch.empty_like(wide(x)))
    monkeypatch.setattr(
        nnf, "scaled_dot_product_attention", lambda q, k, v, attn_mask=None: torch.empty_like(low(q), device="meta")
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "precision", [CAST, *(pytest.param(p, marks=pytest.mark.slow) for p in (FLOAT32, AUTOCAST, BFLOAT16))],
    ids=lambda p: p.name,
)  # fmt: skip
def test_the_peak_of_a_guided_score_is_what_is_told(
    size: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_gpu(monkeypatch, mixed=precision is AUTOCAST)
    with torch.device("meta"):
        net = DiT(SIZES[size], compute_dtype="bfloat16" if precision is CAST else None)
        net = net.bfloat16() if precision is BFLOAT16 else net
        given = torch.zeros(2, FRAMES, 16, *LATENT), torch.zeros(2), torch.zeros(2, 512, 4096)
    with torch.no_grad(), Alive([*net.parameters(), *given]) as alive:
        net(*given)
    told = scoring_bytes(SIZES[size], 1560, FRAMES, 2, precision)
    assert told == pytest.approx(alive.peak, rel=0.03)
