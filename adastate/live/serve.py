"""`adastate live`: a web page to type a prompt and watch, steer, rewind and fork, and a server for other clients.

Without arguments it streams the run in runs/tiny, or the bundled tiny student. It accepts connections from this machine
only; --host 0.0.0.0 --token WORD admits other machines that send the token. docs/guide/live.md shows the page,
docs/reference/live.md lists every message.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import time
from pathlib import Path

from adastate.config import trusted
from adastate.config.world_words import vocabularies
from adastate.inference.student_source import StudentSource, student_source
from adastate.launch import shared_ranks
from adastate.runtime.argument_types import device, whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.gpu_driver import check_device

PORT = 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = "ADASTATE_LIVE_TOKEN"
LAST_CHUNK_S = 600.0
"""Seconds that processes which share a chunk have to finish it at shutdown."""


def main(argv: list[str]) -> None:
    options = parser()
    args = options.parse_args(argv)
    token = args.token or os.environ.get(TOKEN)
    _check(options, args, token)
    began = time.monotonic()
    try:
        check_device(args.device)
        source = student_source(args.run, args.weights, args.size, args.system, [])
        if args.sequence_parallel > 1 and "RANK" not in os.environ:
            source.check_degree(args.sequence_parallel)
            shared_ranks.start_ranks(["live", *argv], args.sequence_parallel)
            return
        told = _serve(args, source, token, began)
    except KeyboardInterrupt:
        raise SystemExit("adastate live: interrupted before it was ready") from None
    except (ValueError, FileNotFoundError) as error:
        if int(os.environ.get("RANK", 0)):
            raise SystemExit(1) from error  # the first process reports it
        raise SystemExit(f"adastate live: {' '.join(str(error).split())}") from error
    if told is not None:
        print(f"[adastate] {told or 'the server'} received, all sessions are closed", flush=True)


def parser() -> Arguments:
    """Parser of the arguments of `adastate live`."""
    found = Arguments("adastate live", description=__doc__, epilog=vocabularies())
    add = found.add_argument
    add("--run", type=Path, help="run folder, as `make train` writes it; default: runs/tiny, or the bundled student")
    add("--weights", type=Path, help="file of any supported format; default: the run's student.safetensors")
    add(
        "--size", metavar="NAME|FILE", help="name in conf/sizes/, for weights without a run folder: tiny, wan_1_3b, ..."
    )
    add("--system", metavar="NAME|FILE", help="another stream on the same weights")
    add("--device", type=device, help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--host", default="127.0.0.1", help="address to listen on; any other than this machine's own requires a token")
    add("--port", type=int, default=PORT, help="port; 0 selects a free one")
    add("--token", help=f"token that clients must send; set it in {TOKEN} to hide it from other users of this machine")
    add(
        "--origin",
        action="append",
        default=[],
        help="another web page that may connect, such as https://lab.example; can be repeated",
    )
    add("--sessions", type=whole(1), default=16, help="maximum number of open sessions")
    add("--history", type=whole(0), default=256, help="maximum number of chunks that a session can rewind")
    add(
        "--sequence-parallel",
        type=whole(1),
        default=1,
        metavar="N",
        help="processes that share every pass, one per GPU",
    )
    add(
        "--unpaced",
        action="store_true",
        help="generate as fast as clients read chunks, not at the frame rate of the video",
    )
    trusted.add_flag(found)
    return found


def _check(parser: Arguments, args: argparse.Namespace, token: str | None) -> None:
    """Checks that need no import of torch."""
    if args.host not in LOOPBACK and not token:
        parser.error(f"--host {args.host} admits other machines: set a token of 16 characters or more with --token")
    if token and len(token) < 16:
        parser.error("a token needs 16 characters or more: python -c 'import secrets; print(secrets.token_urlsafe())'")
    if not 0 <= args.port < 65536:
        parser.error(f"--port is {args.port}; ports are numbers up to 65535")
    if bad := next((o for o in args.origin if not o.startswith(("http://", "https://"))), None):
        parser.error(f"--origin {bad} is not an origin: https://lab.example")


def _serve(args: argparse.Namespace, source: StudentSource, token: str | None, began: float) -> str | None:
    """The name of the signal that ended the server; None in a process that only follows the first one."""
    # nothing has imported torch up to here
    from adastate.live import shared_session
    from adastate.live.messages import Limits
    from adastate.live.model import LiveModel
    from adastate.live.server import serve
    from adastate.live.session_hub import Hub
    from adastate.runtime.ranks import Rank, device_for, this_rank

    name = source.folder.name if source.run else source.weights.stem
    limits = Limits(sessions=args.sessions, history=args.history)
    shared = args.sequence_parallel
    place = device_for(args.device, this_rank(os.environ) if shared > 1 else Rank())
    split = shared_ranks.meet(shared, place.type) if shared > 1 else None
    model = LiveModel.of(source, place, split=split)
    line = None if split is None else shared_session.CallLine(split)
    if line is None:
        hub = Hub(model, name, limits, not args.unpaced)
    else:
        _ = model.systems  # may change the network, so call it before the first session, on all ranks
        if not line.leads:
            for number in (signal.SIGINT, signal.SIGTERM):  # it ends with the first process
                signal.signal(number, signal.SIG_IGN)
            shared_session.follow(line, model)
            return None
        hub = Hub(model, name, limits, not args.unpaced, shared_session.SharedOpening(line))

    def listening(address: str) -> None:
        gc.freeze()  # else a full collection scans all imported modules: 0.3 s, nearly a chunk
        took = time.monotonic() - began
        print(
            f"[adastate] live: {address} ({source.weights.name}, ready after {took:.1f} s; Ctrl-C ends it)", flush=True
        )

    try:
        return serve(hub, args.host, args.port, token, args.origin, listening)
    finally:
        if line is not None:
            hub.worker.close(LAST_CHUNK_S)  # or its calls would mix with those of the last chunk
            line.tell("end")
