"""Actions as a network takes them: the columns of a latent frame, and a last one that says whether they are given.

All zeros is "not given": the layer that takes them has no bias, so that nothing is added.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def given(actions: Float[Tensor, "B F A"]) -> Float[Tensor, "B F A1"]:
    """Actions with the column that says so, float32."""
    return torch.cat([actions.float(), actions.new_ones(*actions.shape[:-1], 1, dtype=torch.float32)], -1)


def not_given(flagged: Float[Tensor, "B F A1"], dropped: Float[Tensor, " B"]) -> Float[Tensor, "B F A1"]:
    """`flagged`, taken back in the samples that are `dropped`."""
    return flagged * (~dropped).to(flagged)[:, None, None]
