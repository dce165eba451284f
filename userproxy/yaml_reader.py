"""The text of a manifest becomes plain values, one for each document in it.

YAML as `kubectl` means it, less what surprises people: timestamps stay text, and so do ``080``, ``0x50`` and
``1:2:3:4:5:6:7:8``, which YAML 1.1 takes for numbers; a key given twice is an error, where most parsers
silently keep one. ``yes`` and ``on`` are booleans, as they are for `kubectl`.
"""

import json
import re
from collections.abc import Iterator

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from userproxy.errors import ObjectError

_TAG = "tag:yaml.org,2002:"
_NUMBERS = {
    f"{_TAG}int": re.compile(r"[-+]?(0|[1-9][0-9]*)\Z"),
    f"{_TAG}float": re.compile(r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)\Z"),
}
_REPLACED = {f"{_TAG}int", f"{_TAG}float", f"{_TAG}timestamp"}
_DEEPEST = 100
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


class MalformedTextError(ObjectError):
    """Text that is no YAML or JSON. `place` is its line and column, and holds nothing of the text itself."""

    def __init__(self, file: str, place: str, reason: str) -> None:
        super().__init__(f"{file}: {place}: {reason}" if place else f"{file}: {reason}")
        self.place = place


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


class _Builder:
    """The plain value of one document's nodes. Tags other than the scalars' own mean nothing, as for kubectl."""

    def __init__(self) -> None:
        self._built: dict[Node, object] = {}

    def build(self, node: Node) -> object:
        """Raises MarkedYAMLError. An alias gives the very value of its anchor, so no text explodes."""
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
        own: dict[object, object] = {}
        merged: dict[object, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise _mistake(key_node, "a key is a list or a mapping")
            value = self.build(value_node)
            if key_node.tag == f"{_TAG}merge":
                self._merge(merged, value, value_node)
                continue
            key = _scalar(key_node)
            if key in own:
                raise _mistake(key_node, f"the key {key_node.value} is given twice")
            own[key] = value
        return merged | own

    def _merge(self, merged: dict[object, object], value: object, node: Node) -> None:
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict):
                raise _mistake(node, "only mappings can be merged with <<")
            for key, part in source.items():
                merged.setdefault(key, part)


class _Unfinished:
    """Stands for a collection that is being built."""


def parse(data: bytes, file: str) -> Iterator[object]:
    """The documents in a manifest, JSON where `file` ends in .json and YAML otherwise.

    Raises MalformedTextError naming `file` and the line where the text is malformed. Then no part of it can be trusted,
    not even what was delivered before.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedTextError(file, f"line {_line(data, error.start)}", "the text is not UTF-8") from None
    if file.endswith(".json"):
        yield _parse_json(text, file)
        return
    try:
        composer = _Composer(text.encode())
        while composer.check_node():
            document = composer.get_node()
            yield None if document is None else _Builder().build(document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise MalformedTextError(file, place, reason) from None
    except yaml.reader.ReaderError as error:
        place = f"line {_line(text.encode(), error.position)}"
        raise MalformedTextError(file, place, error.reason) from None


def _parse_json(text: str, file: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise MalformedTextError(file, "", f"the key {twice} is given twice")
        return mapping

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise MalformedTextError(file, f"line {error.lineno}, column {error.colno}", error.msg) from None
    except RecursionError:
        raise MalformedTextError(file, "", "nested too deeply") from None
    except ValueError as error:
        raise MalformedTextError(file, "", str(error)) from None


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
