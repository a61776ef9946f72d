"""What DeepSpeed is told; what does not go together is in test_zero.py."""

from __future__ import annotations

import copy

from adastate.distributed.deepspeed_config import merge_blocks, settings


def test_a_merged_config_shares_no_block_with_the_one_below() -> None:
    """Each engine changes its own: that of a network that does not learn has no optimiser to offload."""
    below = settings(3, True, "cpu", "cpu", None, {})
    was = copy.deepcopy(below)
    merged = merge_blocks(below, {"bf16": {"enabled": True}})
    assert merged == {**below, "bf16": {"enabled": True}}
    merged["zero_optimization"].pop("offload_optimizer")
    merged["zero_optimization"]["offload_param"]["device"] = "none"
    assert below == was


def test_the_upper_config_holds_block_by_block() -> None:
    found = settings(2, False, "cpu", "none", None, {"zero_optimization": {"overlap_comm": True}, "more": 1})
    plain = settings(2, False, "cpu", "none", None, {})
    assert found == {**plain, "zero_optimization": {**plain["zero_optimization"], "overlap_comm": True}, "more": 1}
    assert merge_blocks({"a": {"b": 1}}, {"a": 2}) == {"a": 2} and merge_blocks({"a": 2}, {"a": {"b": 1}}) == {
        "a": {"b": 1}
    }
