"""One number that summarises several, shown only beside its parts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def composite(
    parts: dict[str, Float[Tensor, "*shape"]], real: dict[str, Float[Tensor, "*#shape"]]
) -> Float[Tensor, "*shape"]:
    """Geometric mean over `parts` of min(x, r) / max(x, r), each part's similarity to its value r of real video.

    Only a summary: it contains nothing beyond its parts, and is shown only beside them. Parts are positive and have a
    real value; a part that is not positive counts as 0.01 of it.
    """
    alike = []
    for name, x in parts.items():
        r = real[name].clamp_min(1e-6)
        x = torch.maximum(x, 0.01 * r)
        alike.append(torch.minimum(x, r) / torch.maximum(x, r))
    return torch.stack(alike).log().mean(0).exp()
