"""One number for many, shown beside its parts only."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def composite(
    parts: dict[str, Float[Tensor, "*shape"]], real: dict[str, Float[Tensor, "*#shape"]]
) -> Float[Tensor, "*shape"]:
    """Geometric mean over `parts` of min(x, r) / max(x, r), the likeness of each to that of real video.

    A summary and no more: it says nothing that its parts do not, and is shown beside them only. Parts are what is
    positive and has a real value; what is not positive counts as 0.01 of it.
    """
    alike = []
    for name, x in parts.items():
        r = real[name].clamp_min(1e-6)
        x = torch.maximum(x, 0.01 * r)
        alike.append(torch.minimum(x, r) / torch.maximum(x, r))
    return torch.stack(alike).log().mean(0).exp()
