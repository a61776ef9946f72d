"""Exceptions that are mistakes in what was asked for, as one sentence."""

from __future__ import annotations

import dis
import errno
import re

from adastate.runtime import disk
from adastate.runtime.spelling import one_line

OURS = ("adastate.", "datamodules.", "callbacks.")

WORKER_GONE = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
"""What torch says of a loader's worker that has ended, wherever the training stands then."""

REMEDIES = {
    "gradient clipping is not supported": "set gradient_clip_norm of the model instead",
    "gradient accumulation is not supported": "the stage accumulates to the global_batch of the model by itself",
    "No supported gpu backend": "torch finds no GPU here; leave trainer.accelerator at auto",
}
"""What to do about mistakes that the trainer tells in its own words."""


DISK = {
    errno.ENOSPC: "free some space, or give another folder",
    errno.EDQUOT: "free some space within your quota, or give another folder",
    errno.EACCES: "use a path with read and write permission",
    errno.EPERM: "use a path with read and write permission",
    errno.EROFS: "give a folder that can be written",
    errno.ENOTDIR: "a file is where a folder has to be: remove it, or give another folder",
    errno.EEXIST: "a file is where a folder has to be: remove it, or give another folder",
    errno.EISDIR: "it is a folder, but a file is required",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "check its name",
}
"""What to do about what the system says of a file or a folder."""


def of_the_disk(error: OSError) -> str | None:
    """What the system says of a file or a folder, with what to do; None where it is about something else."""
    if error.errno not in DISK or (error.errno == errno.EEXIST and error.filename is None):
        return None
    name = f"{error.filename}: " if error.filename is not None else ""
    return f"{name}{error.strerror}; {DISK[error.errno]}"


def _of_a_fault(error: OSError) -> str:
    """A disk that is full, broken or gone. What reads from an open file, or waits for a server, names neither."""
    unnamed = "a file of the run" + ", or a server that was asked" * isinstance(error, TimeoutError)
    do = "make room there" if error.errno in disk.FULL else "check that the disk is still there"
    return f"{error.strerror} at {error.filename or unnamed}; {do}"


def sentence(error: BaseException | None) -> str | None:
    """The sentence of the mistake behind `error`, if it is one: jsonargparse wraps what a constructor raises.

    Mistakes are our exceptions, what the system says of files and folders, a ValueError that a `raise` of ours made,
    and what Lightning's trainer refuses of its arguments. All else is a bug, whose traceback is needed: a ValueError
    of `zip` or `int`, too, and what went wrong while another error was dealt with.
    """
    while error is not None:
        raised, said_so = _raised(error)
        if isinstance(error, RuntimeError) and (gone := WORKER_GONE.match(str(error))):
            how = gone[2].split(". ")[0].rstrip(". ").lower()
            return (
                f"a worker of the data loader (process {gone[1]}) {how}: check its memory limit, and resume "
                "with --ckpt_path=auto"
            )
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and disk.is_fault(error):
            return _of_a_fault(error)
        if isinstance(error, OSError) and (told := of_the_disk(error)):
            return told
        if isinstance(error, FileNotFoundError) or type(error).__module__.startswith(OURS):
            return str(error)
        if isinstance(error, ValueError) and said_so and raised.startswith(OURS):
            return str(error)
        if lacks := re.search(r"Requirement '([\w-]+)\S*' not met", str(error)):  # Lightning's, of its loggers
            return f"the configuration needs {lacks[1]}: pip install {lacks[1]}"
        refused = type(error).__name__ == "MisconfigurationException"
        if refused or (isinstance(error, ValueError) and raised.startswith("lightning.pytorch.trainer.")):
            said = one_line(error, 400)
            return "; ".join([said.rstrip("."), *(do for part, do in REMEDIES.items() if part in said)])
        wrapped = raised.startswith(("jsonargparse", "argparse")) and not error.__suppress_context__
        error = error.__cause__ or (error.__context__ if wrapped else None)
    return None


def _raised(error: BaseException) -> tuple[str, bool]:
    """(name of the module whose code it comes from, whether by a `raise` that stands there)."""
    last = error.__traceback__
    if last is None:
        return "", False
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code.co_code
    return str(last.tb_frame.f_globals.get("__name__", "")), code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def parser_sentence(told: str) -> str:
    """What a parser's error is about: the innermost key, and the value that did not fit there."""
    keys, values = re.findall(r'Parser key "([^"]+)"', told), re.findall(r"Given value: (.*)", told)
    if not keys:
        return " ".join(told.split())[:300]
    value = f" cannot be {values[-1][:80]}" if values else " is not what it takes"
    return f"{keys[-1]}{value}; `adastate fit --help` and docs/reference/configuration.md list what it accepts"
