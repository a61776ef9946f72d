"""Live sessions: how many run at the video's rate, in shared passes and one by one, and what a client observes.

The first half steps sessions in this process, all with a full window, and each with its own seed and age. The second
starts `adastate live` in its own process, with clients that take every chunk at once and change their prompt now and
then.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
from rich.table import Table

from adastate.live.batch import SessionBatch
from adastate.live.model import LiveModel
from adastate.live.opening import load_live, open_session
from adastate.live.session import Session
from benchmarks.clock import Spread, quartiles, ratios, spread_in_words

UNDERRUN_S = 0.2
"""Delay of a chunk, relative to its time in the video, that counts as an underrun."""


CHUNKS = {"tiny": 2000, "flight": 200}
"""Number of chunks over which a session's bytes must stay the same, by size."""


@dataclass
class Stepped:
    """Sessions in this process, each generating a chunk.

    Attributes:
        together, alone: ms per chunk of all, in shared passes and one by one; median and quartiles over the rounds.
        gain: ratio of the two within a round.
        pictures_s: of all sessions together.
        times_real: speed of each session relative to the video's rate.
    """

    sessions: int
    together: Spread
    alone: Spread
    gain: Spread
    pictures_s: float
    times_real: float


@dataclass
class Served:
    """Clients of a server, each with a session at the video's rate.

    Attributes:
        first_ms: from requesting a session to its first chunk.
        pictures_s: minimum over the clients.
        off_ms: median and 99th percentile of a chunk's deviation from its time in the video.
        underruns: chunks that were late by more than `UNDERRUN_S`.
        control_ms, control_chunks: maximum from a new prompt to its first chunk.
        batch: mean number of sessions per pass.
    """

    sessions: int
    first_ms: float
    pictures_s: float
    off_ms: tuple[float, float]
    underruns: int
    chunks: int
    control_ms: float
    control_chunks: int
    batch: float


# ---- in this process


def _sessions(model: LiveModel, count: int, history: int = 0) -> list[Session]:
    made = [open_session(model, model.examples[i % len(model.examples)], i, history=history) for i in range(count)]
    for age, session in enumerate(made):
        for _ in range(8 + age % 4):
            session.step()
    return made


def stepped(model: LiveModel, counts: Sequence[int], rounds: int) -> list[Stepped]:
    """Both ways take turns within a round."""
    found = []
    for count in counts:
        sessions, batch = _sessions(model, count), SessionBatch()

        def together(sessions: list[Session] = sessions, batch: SessionBatch = batch) -> object:
            return batch.step(sessions)

        def alone(sessions: list[Session] = sessions) -> object:
            return [session.step() for session in sessions]

        took: dict[Callable[[], object], list[float]] = {together: [], alone: []}
        for turn in range(rounds + 1):
            for way, seconds in took.items():
                began = time.perf_counter()
                for _ in range(4):
                    way()
                if turn:
                    seconds.append((time.perf_counter() - began) / 4)
        middle = statistics.median(took[together])
        pictures = len(sessions[0].step().video)
        found.append(
            Stepped(
                count,
                quartiles([1000 * s for s in took[together]]),
                quartiles([1000 * s for s in took[alone]]),
                ratios(took[alone], took[together]),
                count * pictures / middle,
                pictures / model.fps / middle,
            )
        )
    return found


def flat(model: LiveModel, chunks: int, history: int = 32) -> dict[str, float]:
    """Bytes of a session as computed and as held, and the process's growth over `chunks` chunks."""
    (session,) = _sessions(model, 1, history)
    for _ in range(history + 8):
        session.step()
    early, before = session.bytes, psutil.Process().memory_info().rss
    for _ in range(chunks):
        session.step()
    growth = (psutil.Process().memory_info().rss - before) / 2**20
    computed = model.session_bytes(None, history)
    return {"chunks": chunks, "computed": computed, "early": early, "late": session.bytes, "growth_mib": growth}


# ---- behind a server


def served(counts: Sequence[int], seconds: float, size: str = "tiny") -> tuple[float, list[Served]]:
    """Seconds from the command to the first picture, and a row for each number of clients."""
    from adastate.live.client import LiveClient

    began = time.monotonic()
    command = [sys.executable, "-m", "adastate", "live", "--port", "0", "--size", size]
    command += ["--sessions", str(max(counts))]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = next(line for line in server.stdout if "live: http" in line)
        live = LiveClient(re.findall(r"http\S+", line)[0])
        with live.open(live.info()["examples"][0]) as stream:
            stream.chunk(60)
            ready = time.monotonic() - began
        return ready, [_clients(live, count, seconds) for count in counts]
    finally:
        server.terminate()
        server.wait(20)


def _clients(live: Any, count: int, seconds: float) -> Served:
    seen: list[dict[str, Any]] = []
    threads = [threading.Thread(target=_client, args=(live, seed, seconds, seen)) for seed in range(count)]
    for thread in threads:
        thread.start()
        time.sleep(0.37 * seconds / 10 / count)  # clients connect at different times
    for thread in threads:
        thread.join()
    if len(seen) < count:
        raise RuntimeError(f"{count - len(seen)} of {count} clients received no stream")
    off = [abs(value) for one in seen for value in one["off"]]
    controls = [control for one in seen for control in one["controls"]]
    return Served(
        count,
        1000 * statistics.median(one["first"] for one in seen),
        min(one["rate"] for one in seen),
        (1000 * statistics.median(off), 1000 * statistics.quantiles(off, n=100)[-1]),
        sum(value > UNDERRUN_S for one in seen for value in one["off"]),
        sum(len(one["off"]) for one in seen),
        1000 * max(ms for ms, _ in controls),
        max(chunks for _, chunks in controls),
        statistics.mean(size for one in seen for size in one["batch"]),
    )


def _client(live: Any, seed: int, seconds: float, seen: list[dict[str, Any]]) -> None:
    examples, began = live.info()["examples"], time.perf_counter()
    controls: list[tuple[float, int]] = []
    came, asked, pictures, batch = list[tuple[float, float]](), None, 0, []
    with live.open(examples[seed % len(examples)], {"encoding": "raw"}, seed=seed) as stream:
        first = 0.0
        while time.perf_counter() - began < seconds:
            chunk = stream.chunk(60)
            now = time.perf_counter()
            stream.acknowledge(chunk)
            first = first or now - began
            came.append((now, chunk.told["at"]))
            pictures += len(chunk.frames)
            batch.append(chunk.told["timings"]["batch"])
            if asked is not None and chunk.told["receipts"]:
                controls.append((now - asked[0], chunk.told["chunk"] - asked[1]))
                asked = None
            elif asked is None and len(came) % 6 == 3:
                time.sleep(0.01 * (seed % 5))
                stream.say("prompt", text=examples[len(came) % len(examples)])
                asked = time.perf_counter(), chunk.told["chunk"] + 1  # the next chunk, made in any case
    start = statistics.median(now - at for now, at in came)
    rate = (pictures - len(chunk.frames)) / (came[-1][0] - came[0][0])
    seen.append(
        {
            "first": first,
            "rate": rate,
            "off": [now - at - start for now, at in came],
            "controls": controls,
            "batch": batch,
        }
    )


# ---- the report


def measure_sessions(rounds: int, size: str, counts: Sequence[int] = (1, 2, 4, 8, 16), seconds: float = 20) -> Any:
    """All measurements for the bundled student of a size, as JSON."""
    model = load_live(size=size)
    ready, rows = served(counts, seconds, size)
    return {
        "size": size,
        "pictures_s_wanted": model.fps,
        "ready_s": ready,
        "served": [vars(row) for row in rows],
        "stepped": [vars(row) for row in stepped(model, counts, rounds)],
        "flat": flat(model, CHUNKS[size]),
    }


def session_tables(found: Any, machine: str) -> list[Table | str]:
    inside = Table(title=f"sessions in one process, {machine}")
    for name in (
        "sessions",
        "one pass, ms a chunk of all",
        "one by one",
        "times faster",
        "pictures/s",
        "times real time",
    ):
        inside.add_column(name, justify="right")
    for row in found["stepped"]:
        inside.add_row(
            str(row["sessions"]),
            spread_in_words(row["together"], 1),
            spread_in_words(row["alone"], 1),
            spread_in_words(row["gain"], 2),
            f"{row['pictures_s']:.0f}",
            f"{row['times_real']:.1f}",
        )
    outside = Table(title=f"clients of a server, {found['pictures_s_wanted']} pictures/s wanted")
    for name in (
        "clients",
        "first, ms",
        "pictures/s",
        "off, ms",
        "99%",
        "late",
        "of",
        "control, ms",
        "chunks",
        "a pass",
    ):
        outside.add_column(name, justify="right")
    for row in found["served"]:
        outside.add_row(
            str(row["sessions"]),
            f"{row['first_ms']:.0f}",
            f"{row['pictures_s']:.2f}",
            *(f"{ms:.0f}" for ms in row["off_ms"]),
            str(row["underruns"]),
            str(row["chunks"]),
            f"{row['control_ms']:.0f}",
            str(row["control_chunks"]),
            f"{row['batch']:.1f}",
        )
    held = found["flat"]
    return [
        inside,
        outside,
        f"{found['ready_s']:.1f} s from the command to the first picture",
        f"a session: {held['computed']} bytes computed, {held['early']} held early, {held['late']} after "
        f"{held['chunks']} chunks; the process grew by {held['growth_mib']:.1f} MiB",
    ]


def faults_of_sessions(found: Any) -> list[str]:
    """Messages about results that are wrong on any machine."""
    held, late = found["flat"], [row for row in found["served"] if row["control_chunks"] > 1]
    sentences = [
        f"with {row['sessions']} clients a control took effect {row['control_chunks']} chunks later" for row in late
    ]
    if held["late"] > held["early"] or held["late"] > held["computed"]:
        sentences.append(f"a session holds {held['late']} bytes, {held['early']} before, {held['computed']} computed")
    if held["growth_mib"] > 32:
        sentences.append(f"the process grew by {held['growth_mib']:.0f} MiB over {held['chunks']} chunks")
    return sentences
