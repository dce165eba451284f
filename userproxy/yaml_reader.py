"""YAML and JSON text becomes plain values: manifests, kubeconfigs and the configuration file are all read here. Pure.

The rules are the same for all of them:

- The text is UTF-8, with or without a byte order mark.
- Numbers are decimal. ``080``, ``0x50``, ``1:30`` and ``.inf``, which YAML 1.1 takes for numbers, stay text, and so do
  timestamps. ``yes`` and ``on`` are booleans, as they are for `kubectl`.
- A key given twice is an error, where most parsers silently keep one. A caller may take it for a warning instead; then
  the last value counts.
- An alias is the very value of its anchor, so a short text never becomes a huge value. It may not be inside its anchor.
- Nothing is nested more than 100 levels deep.
- Tags other than those of scalars mean nothing: no text makes Python construct an object.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from userproxy.errors import ObjectError

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_NUMBERS = {
    f"{_TAG}int": re.compile(r"[-+]?(0|[1-9][0-9]*)\Z"),
    f"{_TAG}float": re.compile(r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)\Z"),
}
_REPLACED = {f"{_TAG}int", f"{_TAG}float", f"{_TAG}timestamp"}
_DEEPEST = 100
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


class MalformedTextError(ObjectError):
    """Text that is no YAML or JSON.

    `reason` is a clause, which may name a key of the text. `line` and `column` count from 1, and are 0 where they are
    not known.
    """

    def __init__(self, file: str, reason: str, line: int = 0, column: int = 0) -> None:
        self.reason = reason
        self.line = line
        self.column = column
        super().__init__(": ".join(part for part in (file, self.place, reason) if part))

    @property
    def place(self) -> str:
        """Line and column as people write them; empty where they are not known."""
        if not self.line:
            return ""
        return f"line {self.line}, column {self.column}" if self.column else f"line {self.line}"


class _Composer(yaml.CSafeLoader):
    """libyaml's composer with our own idea of numbers, and a limit to nesting.

    It recurses on the C stack: some ten thousand brackets would crash the process.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML declares it so)
        first: [
            *(kept for kept in yaml.CSafeLoader.yaml_implicit_resolvers.get(first, ()) if kept[0] not in _REPLACED),
            *(_NUMBERS.items() if first and first in "-+.0123456789" else ()),
        ]
        for first in {*yaml.CSafeLoader.yaml_implicit_resolvers, *"-+.0123456789"}
    }

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._depth = 0

    def descend_resolver(self, parent: Node | None, _index: object) -> None:
        self._depth += 1
        if self._depth > _DEEPEST and parent:
            raise _mistake(parent, f"nested more than {_DEEPEST} levels deep")

    def ascend_resolver(self) -> None:
        self._depth -= 1


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or :func:`parse` would take for a number, such as ``1E0``."""


for _tag, _pattern in _NUMBERS.items():
    _Dumper.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))


class _Builder:
    """Makes the plain value of one document's nodes.

    `on_duplicate` is called with the dotted path of a key that is given twice; without it that is an error.
    """

    def __init__(self, on_duplicate: Callable[[str], None] | None) -> None:
        self._on_duplicate = on_duplicate
        self._path: list[str] = []
        self._built: dict[Node, object] = {}

    def build(self, node: Node) -> object:
        """Raises MarkedYAMLError."""
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if node not in self._built:
            self._built[node] = _Unfinished
            match node:
                case MappingNode():
                    self._built[node] = self._mapping(node)
                case SequenceNode():
                    self._built[node] = self._sequence(node)
        if self._built[node] is _Unfinished:
            raise _mistake(node, "an alias stands inside its own anchor")
        return self._built[node]

    def _sequence(self, node: SequenceNode) -> list[object]:
        return [self.build(item) for item in node.value]

    def _mapping(self, node: MappingNode) -> dict[object, object]:
        self._check_keys(node)
        own: dict[object, object] = {}
        merged: dict[object, object] = {}
        for key_node, value_node in node.value:
            self._path.append(key_node.value)
            value = self.build(value_node)
            if key_node.tag == _MERGE:
                self._merge(merged, value, value_node)
            else:
                own[_scalar(key_node)] = value
            self._path.pop()
        return merged | own

    def _check_keys(self, node: MappingNode) -> None:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, ScalarNode):
                raise _mistake(key_node, "a key is a list or a mapping")
            if key_node.tag == _MERGE:
                continue
            key = _scalar(key_node)
            if key in seen and self._on_duplicate is None:
                raise _mistake(key_node, f"the key {key_node.value} is given twice")
            if key in seen and self._on_duplicate is not None:
                self._on_duplicate(".".join((*self._path, key_node.value)))
            seen.add(key)

    def _merge(self, merged: dict[object, object], value: object, node: Node) -> None:
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict):
                raise _mistake(node, "only mappings can be merged with <<")
            for key, part in source.items():
                merged.setdefault(key, part)


class _Unfinished:
    """Stands for a collection that is being built."""


def parse(data: bytes, file: str) -> Iterator[object]:
    """The documents in a text, JSON where `file` ends in .json and YAML otherwise; None for an empty document.

    Raises MalformedTextError naming `file` and the line where the text is malformed. Then no part of it can be trusted,
    not even what was delivered before.
    """
    text = _decode(data, file)
    if file.endswith(".json"):
        yield _parse_json(text, file)
        return
    with _explained(text, file):
        composer = _Composer(text.encode())
        while composer.check_node():
            yield _value(composer.get_node(), None)


def parse_one(data: bytes, file: str, on_duplicate: Callable[[str], None] | None = None) -> object:
    """The only document in a text, or None where there is none; otherwise as `parse`, but a second one is an error.

    `on_duplicate` is called with the path, as ``iptables.syncPeriod``, of each key of a YAML text that is given twice,
    whose last value counts; without it that is an error.
    """
    text = _decode(data, file)
    if file.endswith(".json"):
        return _parse_json(text, file)
    with _explained(text, file):
        return _value(_Composer(text.encode()).get_single_node(), on_duplicate)


def dump(value: object) -> bytes:
    """YAML of a plain value, in ASCII, that `parse_one` reads as the same value."""
    # PyYAML writes a bare U+0085 as a line break, and reads it back as a blank: it is escaped.
    return yaml.dump(value, Dumper=_Dumper, encoding="ascii", default_flow_style=False)


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedTextError(file, "the text is not UTF-8", _line(data, error.start)) from None


@contextmanager
def _explained(text: str, file: str) -> Iterator[None]:
    """Raises MalformedTextError for what libyaml and the builder raise."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise MalformedTextError(file, reason, line, column) from None
    except yaml.reader.ReaderError as error:
        raise MalformedTextError(file, error.reason, _line(text.encode(), error.position)) from None


def _value(document: Node | None, on_duplicate: Callable[[str], None] | None) -> object:
    return None if document is None else _Builder(on_duplicate).build(document)


def _parse_json(text: str, file: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise MalformedTextError(file, f"the key {twice} is given twice")
        return mapping

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise MalformedTextError(file, error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise MalformedTextError(file, "nested too deeply") from None
    except ValueError as error:
        raise MalformedTextError(file, str(error)) from None


def _scalar(node: ScalarNode) -> object:
    text: str = node.value
    try:
        match node.tag.removeprefix(_TAG):
            case "int" | "float" if not _NUMBERS[node.tag].match(text):  # an explicit tag before what Python would take
                raise ValueError(text)
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "bool":
                return _BOOLEANS[text.lower()]
            case "null":
                return None
            case _:
                return text
    except (ValueError, KeyError):
        raise _mistake(node, f"the value is not of the type {node.tag.removeprefix(_TAG)}") from None


def _mistake(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, node.start_mark)


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
