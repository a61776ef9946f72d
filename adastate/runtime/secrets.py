"""What must not be told: passwords and tokens in addresses, commands and settings; characters that steer a terminal.

Three places hide them, so that no sentence has to think of it: what a process prints, warns and logs (`guarded`), what
is written about a run (`without_secrets`), and what stands in an error about data, which is made of `redacted`
addresses.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, cast
from urllib.parse import quote, unquote

HIDDEN = "***"

_SHORTEST = 6
"""Characters of a value that is looked for in texts: shorter ones stand in too many words by chance."""

_LONG = 24
"""Characters from which on a value in the query of a URL counts as a secret, whatever its name."""

_SECRET_WORDS = frozenset((
    "token", "secret", "password", "passwd", "passphrase", "pwd", "pw", "apikey", "authorization", "auth", "credential",
    "credentials", "signature", "sig", "cookie", "jwt", "bearer",
))  # fmt: skip
_KEYS = frozenset(("api", "access", "private", "secret", "signing", "account", "subscription", "client", "master"))

_USER = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_QUERY = re.compile(r"(?<=[?&;#])([^\s=&;#?'\"/]+)=([^\s&;#'\"]+)")
_FIELD = re.compile(
    r"(?<![\w.-])(?P<name>[\w.-]++)(?P<sign>['\"]?\s*[:=]\s*['\"]?)(?P<kind>(?:bearer|basic|token|digest)\s+)?"
    r"(?P<value>[^\s'\",;&}\]]+)",
    re.IGNORECASE,
)
_FLAG = re.compile(r"(?P<name>(?<!\S)--?[\w.-]+)(?P<sign>\s+)(?P<value>[^\s'\"(`-][^\s'\"]*)")
_USER_FLAG = re.compile(r"((?<!\S)(?:-u|--user|--proxy-user)[\s=]*['\"]?[^\s:'\"]+:)[^\s'\"]+")
_COOKIE = re.compile(r"(\bcookie:\s*)[^'\"\n]+", re.IGNORECASE)
_BEARER = re.compile(r"(\b(?:bearer|basic)\s+)[A-Za-z0-9+/_.~=-]{8,}", re.IGNORECASE)
_KNOWN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|A[KS]IA[A-Z0-9]{16}|"
    r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
"""Tokens that are known by how they look."""

_MOVES = re.compile(r"(\r|\t|\x1b\[[0-9;]*[mABK]|\x1b\[\?25[hl])")
"""What progress bars and colours are made of. Nobody sets a window's title, the clipboard or the whole screen."""

_values: dict[str, str] = {}
"""Values that came out of the environment, and what is told in their place."""


def is_secret(name: str) -> bool:
    """Whether what is called so is nobody's business: `api_key`, `X-Amz-Signature`, `hfToken`."""
    words = set(re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", unquote(name)).lower()))
    return bool(words & _SECRET_WORDS or ("key" in words and words & _KEYS) or {"x", "amz"} <= words)


def register(value: str, told: str = HIDDEN) -> None:
    """From now on `told` stands wherever this value would. Paths that are there, and short words, are no secrets."""
    if len(value) >= _SHORTEST and not os.path.exists(value):
        _values[value] = told
        _values[quote(value, safe="")] = told


def redacted(text: str) -> str:
    """A text without the passwords, tokens and signatures in it."""
    for value in sorted(_values, key=len, reverse=True):
        if value in text:
            text = text.replace(value, _values[value])
    text = _KNOWN.sub(HIDDEN, text)
    if "://" in text:
        text = _USER.sub(lambda match: match[0] if "${" in match[0] else f"{HIDDEN}@", text)
        text = _QUERY.sub(_query, text)
    text = _USER_FLAG.sub(rf"\g<1>{HIDDEN}", text)
    text = _BEARER.sub(rf"\g<1>{HIDDEN}", text)
    text = _COOKIE.sub(rf"\g<1>{HIDDEN}", text)
    return _FLAG.sub(_field, _fields(text))


def _query(match: re.Match[str]) -> str:
    name, value = match.groups()
    secret = is_secret(name) or name.lower() in ("key", "code", "sas") or len(value) >= _LONG
    return f"{name}={HIDDEN}" if secret and "${" not in value else match[0]


def _fields(text: str) -> str:
    told, at, done = list[str](), 0, 0
    while match := _FIELD.search(text, at):
        shown = _field(match)
        at = match.end() if shown != match[0] else match.end("sign")  # a field may be the value of another
        if shown != match[0]:
            told += [text[done : match.start()], shown]
            done = at
    return "".join((*told, text[done:]))


def _field(match: re.Match[str]) -> str:
    found = match.groupdict()
    if not is_secret(found["name"]) or "${" in found["value"] or found["value"] in ("null", "None", HIDDEN):
        return match[0]
    return f"{found['name']}{found['sign']}{found.get('kind') or ''}{HIDDEN}"


def without_secrets(node: Any) -> Any:
    """`node`, of dicts, lists and texts, for a file that others may read: without secrets in texts, or under a name of
    one."""
    if isinstance(node, Mapping):
        return {
            name: HIDDEN if isinstance(value, str) and value and _bare(str(name), value) else without_secrets(value)
            for name, value in node.items()
        }
    if isinstance(node, list):
        return [without_secrets(value) for value in node]
    return redacted(node) if isinstance(node, str) else node


def _bare(name: str, value: str) -> bool:
    return is_secret(name) and "${" not in value


def printable(text: str) -> str:
    """A text in which characters that a terminal obeys, or by which it turns the order of others, are spelled out."""
    return "".join(c if c == "\n" or not steers(c) else c.encode("unicode_escape").decode() for c in text)


def steers(character: str) -> bool:
    """Whether it is a control character, a surrogate, a line separator, or turns the direction of writing."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character not in "\u200c\u200d")


@contextmanager
def guarded() -> Iterator[None]:
    """Within it nothing that is printed, warned of or logged holds a secret, and no name steers the terminal.

    Progress bars move the cursor by lines, and text has colours: these are let through where something is printed. All
    else that a terminal obeys is spelled out, and in warnings and logs these, too.
    """
    for name, value in os.environ.items():
        if is_secret(name):
            register(value)
    out, err, hook, warned, make = (
        sys.stdout,
        sys.stderr,
        sys.excepthook,
        warnings.formatwarning,
        logging.getLogRecordFactory(),
    )

    def formatwarning(message: Warning | str, *args: Any, **kwargs: Any) -> str:
        return warned(printable(redacted(str(message))), *args, **kwargs)

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        made.msg, made.args = printable(redacted(made.getMessage())), None
        return made

    sys.stdout, sys.stderr = cast(TextIO, _Stream(out)), cast(TextIO, _Stream(err))
    warnings.formatwarning = formatwarning  # type: ignore[assignment]
    logging.setLogRecordFactory(record)
    try:
        yield
    except SystemExit as end:  # whose sentence is printed when all of this is over
        if isinstance(end.code, str):
            end.code = printable(redacted(end.code))
            end.args = (end.code,)
        raise
    except BaseException:
        hook = _hook
        raise
    finally:
        sys.excepthook = hook
        sys.stdout, sys.stderr = out, err
        warnings.formatwarning = warned
        logging.setLogRecordFactory(make)


def _hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


class _Stream:
    """Writes to another stream what may be told."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        text = redacted(text) if len(text) > 2 else text
        if any(map(steers, set(text) - {"\n"})):
            text = "".join(part if i % 2 else printable(part) for i, part in enumerate(_MOVES.split(text)))
        return self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
