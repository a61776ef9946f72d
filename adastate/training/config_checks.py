"""Rejects distillation options that exclude each other, in a sentence each."""

from __future__ import annotations

from adastate.models.lora import Lora
from adastate.stream import StreamSpec
from adastate.training.rollout_sampler import Source


def refuse_conflicts(spec: StreamSpec, lora: Lora | None, scores_states: bool, source: Source, replay: bool) -> None:
    """Arguments are the student's stream and adapters, whether the objective scores states, and Distill's own.

    Raises:
        ValueError: for a state that nothing teaches or that there is not, and for gradients that cannot be replayed.
    """
    untaught = spec.cache_grad == "detached" and not spec.state_grad and not scores_states
    if spec.anchor == "state" and spec.state_visibility == "previous" and untaught:
        raise ValueError(
            "with state_visibility: previous, a detached cache and no state_loss nothing trains the state: "
            "set state_loss: dmd, cache_grad: straight_through or state_grad: 1"
        )
    if scores_states and (spec.anchor != "state" or spec.state_frames > spec.chunk_frames):
        raise ValueError("state_loss: dmd needs anchor: state with at most as many frames as a chunk")
    if scores_states and source != "rollout":
        raise ValueError(f"state_loss looks at rollouts, and source is {source!r}: leave it as it is")
    if not replay:
        return
    plain = source == "rollout" and spec.schedule == "uniform"
    if not (plain and spec.cache_grad == "detached" and not spec.state_grad):
        raise ValueError(
            "replay sends gradients back chunk by chunk: it needs rollouts, schedule 'uniform' and a cache without "
            f"gradient; got source {source!r}, schedule {spec.schedule!r}, cache_grad {spec.cache_grad!r}, "
            f"state_grad {spec.state_grad}"
        )
    if lora is not None and lora.dropout:
        raise ValueError("replay runs passes again, in which lora's dropout would draw otherwise: set it to 0")
