"""`adastate live`: a page to type a prompt and watch, steer, go back and fork, and a server for clients of other kinds.

Without arguments it streams the run in runs/tiny, or the tiny student that ships. It answers to this machine alone;
--host 0.0.0.0 --token WORD lets others in who know the word. docs/guide/live.md shows the page, docs/reference/live.md
has every message.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from adastate.config import trusted
from adastate.config.world_words import vocabularies
from adastate.inference.student_source import student_source
from adastate.launch import shared_ranks
from adastate.runtime.argument_types import device, whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.gpu_driver import check_device

PORT = 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = "ADASTATE_LIVE_TOKEN"
LAST_CHUNK_S = 600.0
"""Seconds that processes which share a chunk have to finish it when they end."""


def main(argv: list[str]) -> None:
    options = parser()
    args = options.parse_args(argv)
    token = args.token or os.environ.get(TOKEN)
    _check(options, args, token)
    began = time.monotonic()
    if args.sequence_parallel > 1 and "RANK" not in os.environ:
        shared_ranks.start_ranks(["live", *argv], args.sequence_parallel)
        return
    try:
        told = _serve(args, token, began)
    except KeyboardInterrupt:
        raise SystemExit("adastate live: stopped before it was ready") from None
    except (ValueError, FileNotFoundError) as error:
        if int(os.environ.get("RANK", 0)):
            raise SystemExit(1) from error  # the first process says it
        raise SystemExit(f"adastate live: {' '.join(str(error).split())}") from error
    if told is not None:
        print(f"[adastate] {told or 'the server'} came, and all sessions are closed", flush=True)


def parser() -> Arguments:
    """What `adastate live` takes."""
    found = Arguments("adastate live", description=__doc__, epilog=vocabularies())
    add = found.add_argument
    add("--run", type=Path, help="run folder, as `make train` writes it; default: runs/tiny, or the student that ships")
    add("--weights", type=Path, help="of any origin; default: the run's student.safetensors")
    add("--size", metavar="NAME|FILE", help="of conf/sizes/, for weights without a run folder: tiny, wan_1_3b, ...")
    add("--system", metavar="NAME|FILE", help="another stream on the same weights")
    add("--device", type=device, help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--host", default="127.0.0.1", help="address to listen to; any but this machine's own needs a token")
    add("--port", type=int, default=PORT, help="0: any that is free")
    add("--token", help=f"that clients have to tell; or in {TOKEN}, where other users of this machine do not see it")
    add(
        "--origin",
        action="append",
        default=[],
        help="page elsewhere that may come in, https://lab.example; again for more",
    )
    add("--sessions", type=whole(1), default=16, help="open at a time")
    add("--history", type=whole(0), default=256, help="chunks to which a session may go back, at most")
    add(
        "--sequence-parallel", type=whole(1), default=1, metavar="N", help="processes, one a GPU, that share every pass"
    )
    add("--unpaced", action="store_true", help="as fast as clients take chunks, and not at the video's rate")
    trusted.add_flag(found)
    return found


def _check(parser: Arguments, args: argparse.Namespace, token: str | None) -> None:
    """What can be said before torch is imported."""
    if args.host not in LOOPBACK and not token:
        parser.error(
            f"--host {args.host} lets other machines in: give a token of 16 characters or more, too, by --token"
        )
    if token and len(token) < 16:
        parser.error("a token has 16 characters or more: python -c 'import secrets; print(secrets.token_urlsafe())'")
    if not 0 <= args.port < 65536:
        parser.error(f"--port is {args.port}; ports are numbers up to 65535")
    if bad := next((o for o in args.origin if not o.startswith(("http://", "https://"))), None):
        parser.error(f"--origin {bad} is no origin: https://lab.example")


def _serve(args: argparse.Namespace, token: str | None, began: float) -> str | None:
    """What has ended the server; None of a process that only follows another's."""
    check_device(args.device)
    source = student_source(args.run, args.weights, args.size, args.system, [])
    # up to here nothing has imported torch
    from adastate.live import shared_session
    from adastate.live.messages import Limits
    from adastate.live.model import LiveModel
    from adastate.live.server import serve
    from adastate.live.session_hub import Hub
    from adastate.models.size import check_degree
    from adastate.runtime.ranks import Rank, device_for, this_rank

    name = source.folder.name if source.run else source.weights.stem
    limits = Limits(sessions=args.sessions, history=args.history)
    shared = args.sequence_parallel
    place = device_for(args.device, this_rank(os.environ) if shared > 1 else Rank())
    split = shared_ranks.meet(shared, place.type) if shared > 1 else None
    model = LiveModel.of(source, place, split=split)
    size = model.student.net.size
    check_degree(shared, size.heads, size.tokens(model.student.latent_size))
    line = None if split is None else shared_session.CallLine(split)
    if line is None:
        hub = Hub(model, name, limits, not args.unpaced)
    else:
        _ = model.systems  # which may change the network: before the first session, on all ranks
        if not line.leads:
            for number in (signal.SIGINT, signal.SIGTERM):  # it ends with the first process
                signal.signal(number, signal.SIG_IGN)
            shared_session.follow(line, model)
            return None
        hub = Hub(model, name, limits, not args.unpaced, shared_session.SharedOpening(line))

    def listening(address: str) -> None:
        took = time.monotonic() - began
        print(
            f"[adastate] live: {address} ({source.weights.name}, ready after {took:.1f} s; Ctrl-C ends it)", flush=True
        )

    try:
        return serve(hub, args.host, args.port, token, args.origin, listening)
    finally:
        if line is not None:
            hub.worker.close(LAST_CHUNK_S)  # or its calls would come among the last one
            line.tell("end")
