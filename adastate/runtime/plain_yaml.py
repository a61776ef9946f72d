"""YAML from files that nobody vouches for: plain values only, and no more of them than a configuration has."""

from __future__ import annotations

from typing import Any

import yaml

MOST_BYTES = 4 << 20
"""Of a file. The parser reads some hundred thousand a second; the longest configuration here has thirty thousand."""

MOST_NODES = 100_000
"""Values, those that aliases stand for counted each time: nine lists of nine aliases each are half a billion."""


MOST_DIGITS = 1000
"""Of a number: YAML has numbers to the base of 60, 1:30:00, of which a long one takes hours to read."""


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """What a text holds.

    Raises:
        yaml.YAMLError: it is none, too long, nested too deep, or its aliases stand for more than `MOST_NODES` values,
            or a number is too long.
    """
    return load_nodes(text, loader)[1]


def load_nodes(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> tuple[yaml.Node | None, Any]:
    """(the nodes of a text, which tell their places, what it holds); raises as `load_yaml`."""
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"it has {len(text)} characters, at most {MOST_BYTES}")
    reading = loader(text)
    try:
        node = reading.get_single_node()
        if node is None:
            return None, None
        _size(node, {})
        return node, reading.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except (ValueError, OverflowError) as error:  # a number of thousands of digits, say
        raise yaml.YAMLError(f"it holds a value that cannot be read, {error}") from None
    finally:
        reading.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node stands for. Raises yaml.YAMLError for too many, or for one within itself."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError("an alias in it stands for what it is a part of")
        return known[id(node)]
    known[id(node)] = 0
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")) and len(node.value) > MOST_DIGITS:
        raise yaml.YAMLError(f"it holds a number of {len(node.value)} characters, at most {MOST_DIGITS}")
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    if known[id(node)] > MOST_NODES:
        raise yaml.YAMLError(f"its aliases stand for more than {MOST_NODES} values")
    return known[id(node)]
