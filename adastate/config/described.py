"""Classes as their sources describe them: bases, constructors and fields, while nothing that they need is imported.

A configuration is checked before anything imports torch. So a class is read from its file: its methods are kept without
their bodies, its fields without their values, and a name of its module is looked up as an annotation or a base asks for
it. What comes out is a class with which `inspect`, `typing` and `dataclasses` deal as with the real one.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import importlib.util
import sys
from abc import ABCMeta
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

OPAQUE = ("torch", "numpy")
"""Packages whose classes nobody configures: a name of theirs stands for itself."""

KEPT = ("classmethod", "staticmethod", "property")


class Unreadable(Exception):
    """What the source does not tell; it has to be imported."""


def described(path: str) -> Any:
    """What a dotted path names, a class or a constant such as a Literal, by its source.

    Raises:
        Unreadable: this cannot be told from a source.
        ImportError, AttributeError: one of the project's own that is not there.
    """
    module, _, name = path.rpartition(".")
    try:
        return _attribute(module, name)
    except (Unreadable, ImportError, AttributeError):
        raise
    except Exception as error:  # whatever it is that evaluating others' code may raise
        raise Unreadable(path) from error


def read_hints(annotations: Mapping[str, Any], names: Any) -> dict[str, Any]:
    """Types by their text; what cannot be told stays text, which anything fits."""
    found = {}
    for name, text in annotations.items():
        try:
            found[name] = eval(text, names) if isinstance(text, str) else text
        except Exception:
            found[name] = text
    return found


def names_of(cls: type) -> dict[str, Any] | None:
    """The names of the module of a class that was described; None of one that was imported."""
    return vars(cls).get("__names__")


def classes_beside(cls: type) -> set[str]:
    """Names of the classes in the folder of the file of `cls`: words where one of its kind is asked for."""
    file = _file(cls.__module__)
    return {name for path in file.parent.glob("*.py") for name in _classes(path)} if file is not None else set()


@cache
def _classes(path: Path) -> tuple[str, ...]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef))


class _Unread(ABCMeta):
    """Of names of OPAQUE packages: what hangs below one is another."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_") or "unread" not in vars(cls):
            raise AttributeError(name)
        return _opaque(f"{vars(cls)['unread']}.{name}")

    def __getitem__(cls, _: Any) -> Any:
        return cls


@cache
def _opaque(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return _Unread(name, (), {"__module__": module, "unread": path})


class _Module:
    """A module, as its name is used: `pl` in `pl.LightningModule`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return _attribute(self._name, name)


class _Names(dict[str, Any]):
    """The names of a module, each made as it is asked for."""

    def __init__(self, module: str, file: Path) -> None:
        super().__init__(__name__=module)
        self.package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        self.bound: dict[str, ast.AST] = {}
        for name, node in _bindings(ast.parse(file.read_text(encoding="utf-8")).body):
            self.bound.setdefault(name, node)

    def __missing__(self, name: str) -> Any:
        if name not in self.bound:
            raise KeyError(name)
        self[name] = made = self._made(name, self.bound[name])
        return made

    def _made(self, name: str, node: ast.AST) -> Any:
        if isinstance(node, ast.Import):
            whole = next(a for a in node.names if (a.asname or a.name.partition(".")[0]) == name)
            return _module(whole.name if whole.asname else name)
        if isinstance(node, ast.ImportFrom):
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            return _attribute(module, next(a.name for a in node.names if (a.asname or a.name) == name))
        if isinstance(node, ast.ClassDef):
            return self._sketch(node)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            return eval(compile(ast.Expression(node.value), self["__name__"], "eval"), self)
        raise Unreadable(f"{self['__name__']}.{name}")

    def _sketch(self, node: ast.ClassDef) -> type:
        parts: list[ast.stmt] = []
        for part in node.body:
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                parts.append(_without_body(part))
            elif isinstance(part, ast.AnnAssign):
                default = ast.Constant(None) if part.value is not None else None
                parts.append(ast.AnnAssign(part.target, part.annotation, default, part.simple))
        sketch = ast.ClassDef(node.name, node.bases, [], parts or [ast.Pass()], [])
        tree = ast.fix_missing_locations(ast.Module([ast.copy_location(sketch, node)], []))
        made: dict[str, Any] = _Scope(self)
        flags = __future__.annotations.compiler_flag
        exec(compile(tree, self["__name__"], "exec", flags, dont_inherit=True), self, made)
        cls = dict.__getitem__(made, node.name)
        if issubclass(cls, Enum):
            raise Unreadable(f"{self['__name__']}.{node.name}")  # its members are values
        cls.__names__ = self
        for mark in node.decorator_list:
            if "dataclass" in ast.unparse(mark):
                cls.__module__ = __name__  # while it is made one, which looks its module up
                eval(compile(ast.Expression(mark), self["__name__"], "eval"), self)(cls)
                cls.__module__ = self["__name__"]
        return cls  # type: ignore[no-any-return]


class _Scope(dict[str, Any]):
    """Where a sketch is made: what it binds does not come among the names of its module before it is whole."""

    def __init__(self, names: _Names) -> None:
        super().__init__()
        self.names = names

    def __missing__(self, name: str) -> Any:
        return self.names[name]


def _without_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.FunctionDef:
    none = [ast.Constant(None) for _ in function.args.defaults]
    arguments = ast.arguments(
        function.args.posonlyargs,
        function.args.args,
        function.args.vararg,
        function.args.kwonlyargs,
        [default and ast.Constant(None) for default in function.args.kw_defaults],
        function.args.kwarg,
        list(none),
    )
    marks: list[ast.expr] = [d for d in function.decorator_list if isinstance(d, ast.Name) and d.id in KEPT]
    return ast.FunctionDef(function.name, arguments, [ast.Pass()], marks, function.returns)


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """What the top level of a module binds, in whichever of its branches."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((a.asname or (a.name if isinstance(node, ast.ImportFrom) else a.name.partition(".")[0]), node)
                        for a in node.names)  # fmt: skip
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((t.id, node) for t in targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.If):
            yield from _bindings([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _bindings([*node.body, *(part for handler in node.handlers for part in handler.body)])


def _module(name: str) -> Any:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return importlib.import_module(name)
    return _opaque(name) if top in OPAQUE else _Module(name)


def _attribute(module: str, name: str) -> Any:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return getattr(importlib.import_module(module), name)
    if top in OPAQUE:
        return _opaque(f"{module}.{name}")
    names = _read(module)
    try:
        return names[name]
    except KeyError:
        if _file(f"{module}.{name}") is not None:
            return _Module(f"{module}.{name}")
        if OURS.isdisjoint({top}):
            raise Unreadable(f"{module}.{name}") from None
        raise AttributeError(f"{module} has no {name}") from None


OURS = {"adastate", "datamodules", "callbacks"}
"""Packages whose sources say all: a name that is not there is a mistake."""


def _read(module: str) -> _Names:
    file = _file(module)
    if file is None:
        if OURS.isdisjoint({module.partition(".")[0]}):
            raise Unreadable(module)
        raise ImportError(f"there is no module {module}")
    return _names(module, file)


@cache
def _names(module: str, file: Path) -> _Names:
    return _Names(module, file)


def _file(module: str) -> Path | None:
    """Where a module is written; only its outermost package is asked of Python, which imports none of it."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not below:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *below)
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                return file
    return None
