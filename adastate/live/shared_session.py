"""Sessions whose passes several ranks share: the first rank serves them, the others repeat its calls.

A session is a function of its opening arguments, its controls and the chunk of each. So a follower that receives these
in the leader's order makes the same passes, with its own share of tokens and heads, and caches its own share of the
past. Only the leader decodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch import Tensor, distributed

from adastate.distributed.sequence_split import SequenceSplit
from adastate.live.batch import SessionBatch
from adastate.live.model import LiveModel
from adastate.live.opening import picture_before
from adastate.live.session import HISTORY, Control, Session
from adastate.live.snapshot import Snapshot
from adastate.live.step import Step
from adastate.stream.passes import Requests
from adastate.types import Chunk

PATIENCE = timedelta(days=365)
"""How long a follower waits for the next call."""


class CallLine:
    """Sends the leader's calls to its followers in one order, over the only process group. All ranks construct it."""

    def __init__(self, split: SequenceSplit) -> None:
        self.leads = split.rank == 0
        self._group = distributed.new_group(range(split.degree), PATIENCE, "gloo")
        self._kept: list[Any] = []
        self._sessions = 0

    def tell(self, verb: str, *told: Any) -> None:
        """Sends a call; leader only. The arguments must be picklable."""
        distributed.broadcast_object_list([(verb, *told)], 0, self._group)

    def hear(self) -> Any:
        """Receives (verb, *arguments); followers only."""
        if self._kept:
            return self._kept.pop()
        heard = [None]
        distributed.broadcast_object_list(heard, 0, self._group)
        return heard[0]

    def keep(self, heard: Any) -> None:
        """Makes the next `hear` return this again."""
        self._kept.append(heard)

    def number(self) -> int:
        """The number of a new session."""
        self._sessions += 1
        return self._sessions


class SharedSession(Session):
    """A session on each of the ranks that share it.

    Args:
        ident: the same on all ranks.
        arguments: of Session, after the model.
    """

    def __init__(self, line: CallLine, ident: int, model: LiveModel, *arguments: Any) -> None:
        super().__init__(model, *arguments)
        self.line, self.ident = line, ident
        self._made: Any = None
        self._tell("open", arguments)

    def _tell(self, verb: str, *told: Any) -> None:
        """Sent after the leader has made the call, so that followers never receive one that fails."""
        if self.line.leads:
            self.line.tell(verb, self.ident, *told)

    def requests(self) -> Requests[Chunk]:
        made = super().requests()
        self._tell("requests")
        return made

    def _take(self) -> tuple[list[Control], bool]:
        if self.line.leads:
            taken, measured = super()._take()
            self.line.tell("take", self.ident, [control.told for control in taken], measured)
            return taken, measured
        verb, ident, controls, measured = self.line.hear()
        if (verb, ident) != ("take", self.ident):
            raise RuntimeError(f"the leader called {verb} of session {ident}, but session {self.ident} was expected")
        return [Control(0, 0.0, told) for told in controls], measured

    def finish(self, chunk: Chunk, denoise_s: float) -> Step:
        if self.line.leads:
            return super().finish(chunk, denoise_s)
        assert self._pending is not None
        self._made, self._pending = self._pending.before, None
        self._history.append(self._made)
        return cast(Step, None)  # a follower's pictures are never used

    def undo(self) -> None:
        if self.line.leads or self._pending is not None:
            super().undo()
        else:  # the leader failed to decode a chunk that is finished here
            self._go(self._made)
            if self._history:
                self._history.pop()
        self._tell("undo")

    def rollback(self, chunks: int | None = None, to: int | None = None) -> None:
        super().rollback(chunks, to)
        self._tell("rollback", self.chunk)

    def snapshot(self) -> Snapshot:
        self._idle()
        self._tell("snapshot")
        state = _on_processor(self._state.saved())  # each rank has its own heads: all ranks assemble the full state
        identity = self.model.identity(self.spec)
        return Snapshot(state, self._script, self._scripted, self.seed, self.system, identity)

    def restore(self, snapshot: Snapshot) -> None:
        super().restore(snapshot)
        self._tell("restore", snapshot)

    def fork(self) -> SharedSession:
        twin = cast(SharedSession, super().fork())
        if self.line.leads:
            twin.ident = self.line.number()
        self._tell("fork", twin.ident)
        return twin

    def close(self) -> None:
        super().close()
        self._tell("close")


class SharedOpening:
    """Opens sessions on the leader, as adastate.live.opening.open_session does."""

    def __init__(self, line: CallLine) -> None:
        self.line = line

    def __call__(
        self,
        model: LiveModel,
        prompt: str,
        seed: int = 0,
        system: str | None = None,
        image: str | Path | Image.Image | None = None,
        history: int = HISTORY,
        script: Sequence[Mapping[str, Any]] = (),
    ) -> Session:
        given = None if image is None else picture_before(model, image).batch([0]).cpu()
        return SharedSession(self.line, self.line.number(), model, prompt, seed, system, given, history, list(script))


def follow(line: CallLine, model: LiveModel) -> None:
    """Repeats the leader's calls until it ends."""
    sessions: dict[int, SharedSession] = {}
    batch, asked = SessionBatch(), list[SharedSession]()
    while True:
        verb, *told = heard = line.hear()
        if verb == "end":
            return
        ident, *rest = told
        if verb == "open":
            sessions[ident] = SharedSession(line, ident, model, *rest[0])
        elif verb == "requests":
            asked.append(sessions[ident])
        elif verb == "take":  # the first of the sessions that are stepped together
            line.keep(heard)
            failed = [found for found in batch.step(asked) if isinstance(found, Exception)]
            if failed:
                raise failed[0]
            asked = []
        elif verb == "undo":
            sessions[ident].undo()
        elif verb == "rollback":
            sessions[ident].rollback(to=rest[0])
        elif verb == "snapshot":
            sessions[ident].snapshot()
        elif verb == "restore":
            sessions[ident].restore(rest[0])
        elif verb == "fork":
            sessions[rest[0]] = twin = sessions[ident].fork()
            twin.ident = rest[0]
        elif verb == "close":
            sessions.pop(ident).close()
        else:
            raise RuntimeError(f"the leader sent {verb!r}, which is not a call of a session")


def _on_processor(node: Any) -> Any:
    if isinstance(node, Tensor):
        return node.detach().cpu()
    if isinstance(node, Mapping):
        return {k: _on_processor(v) for k, v in node.items()}
    return [_on_processor(v) for v in node] if isinstance(node, (list, tuple)) else node
