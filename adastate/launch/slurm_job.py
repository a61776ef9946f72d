"""What conf/slurm.sh runs on the cluster: the pipeline in this process, any other command through srun."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping

from adastate.launch.process_group import LOGS, run_command
from adastate.runtime import signals


def watch_command(env: Mapping[str, str], logs: str) -> str:
    job = env.get("SLURM_JOB_ID", "")
    return (
        f"job {job}, start {int(env.get('SLURM_RESTART_COUNT', 0)) + 1}: {env.get('SLURM_NNODES')} x "
        f"{env.get('SLURM_NTASKS_PER_NODE')} tasks on {env.get('SLURM_JOB_NODELIST')}\n"
        f"  squeue -j {job}\n"
        f"  tail -F {shlex.quote(f'{logs}/{job}.log')} {shlex.quote(f'{logs}/{job}-0.log')}\n"
        f"  make tensorboard\n"
        f"  scancel --signal=USR1 {job}    saves, stops and goes back into the queue\n"
        f"  scancel {job}                  ends it; what was saved stays"
    )


def main(argv: list[str]) -> None:
    """What conf/slurm.sh runs: the pipeline in this process, any other command through srun."""
    logs = os.environ.get(LOGS)
    before = signals.listen()
    if logs:
        print(watch_command(os.environ, logs), flush=True)
    if argv[0] == "train":
        from adastate.launch import pipeline

        code = 0
        try:
            pipeline.main(argv[1:])
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    else:
        code = run_command(argv)
    signals.set_handlers(before)
    if signals.stopped(code):
        # the run itself has asked for this already, unless the signal came before it listened
        print(f"[adastate] asked to stop; {signals.requeue() or 'start again to go on'}", flush=True)
    raise SystemExit(0 if code == signals.ENDED else code)


if __name__ == "__main__":
    main(sys.argv[1:])
