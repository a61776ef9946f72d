"""Checkpoints of strategies that keep networks in pieces: each rank writes what it holds, and reads what it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adastate import pieces
from adastate.pieces import Held


class Piecewise:
    """Stands before a Lightning strategy among the bases of one that has `held`."""

    held: Mapping[str, Held]
    """What this rank holds, by network."""

    def save_checkpoint(self: Any, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes a folder, each rank its own files, see adastate.pieces.

        It is written in place: who wants it whole or absent hands in a scratch path and renames it afterwards. No rank
        waits for another once it writes, so that one whose disk is full does not leave the others waiting.
        """
        folder = Path(self.broadcast(os.fspath(filepath)))
        folder.mkdir(parents=True, exist_ok=True)
        for name, held in self.held.items():
            pieces.write(folder, name, held, self.global_rank)
        if self.is_global_zero:
            pieces.save_rest(folder, checkpoint)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads what any such strategy wrote, on any number of processes; nothing in it is executed.

        Raises:
            FileNotFoundError: where there is no such checkpoint.
            PiecesError: it holds more than plain data, or other networks than these.
        """
        rest = pieces.load_rest(Path(checkpoint_path))
        for name, held in self.held.items():
            pieces.read(Path(checkpoint_path), name, held)
        return rest

    def lightning_module_state_dict(self: Any) -> dict[str, Any]:
        return pieces.rest_of(self.lightning_module)

    def load_model_state_dict(self: Any, checkpoint: Any, strict: bool = True) -> None:
        pieces.bring_rest(self.lightning_module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return {}  # it is in the pieces
