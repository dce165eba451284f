"""The forms of ``-o``: a table, JSON, YAML, or names alone; for a list at once, and for changes one by one."""

import json
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, Final

from userproxy.cli.output.tables import Column, Item, Table, printable

_UNICODE_BREAKS: Final = frozenset("\x85\u2028\u2029")


class Form(StrEnum):
    """What ``-o`` can ask for."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def as_list(form: Form, items: Sequence[Item], columns: Sequence[Column], name: Callable[[Item], str]) -> list[str]:
    """The lines of a whole list. JSON and YAML have it under ``items``."""
    match form:
        case Form.JSON:
            return [json.dumps({"items": items}, indent=2, ensure_ascii=False)]
        case Form.YAML:
            return [as_yaml({"items": items})]
        case Form.NAME:
            return [printable(name(item)) for item in items]
    return Table(columns, wide=form is Form.WIDE).lines(items)


class Stream:
    """The lines of a list that goes on: rows of a table, JSON objects or names a line, documents of YAML."""

    def __init__(self, form: Form, columns: Sequence[Column], name: Callable[[Item], str]) -> None:
        self._form = form
        self._name = name
        self._table = Table(columns, wide=form is Form.WIDE)

    def lines(self, items: Iterable[Item]) -> list[str]:
        """The lines for these items."""
        match self._form:
            case Form.JSON:
                return [as_json_line(item) for item in items]
            case Form.YAML:
                return [f"---\n{as_yaml(item)}" for item in items]
            case Form.NAME:
                return [printable(self._name(item)) for item in items]
        return self._table.lines(items)


def as_json_line(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def as_yaml(value: Any) -> str:
    """YAML, in the order of the fields."""
    import yaml

    text: str = yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


@cache
def _dumper() -> Any:
    """PyYAML's, but that it escapes the line breaks of Unicode: a reader makes blanks of them where they stand bare."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def represent_text(self, text: str) -> Any:
            style = '"' if not _UNICODE_BREAKS.isdisjoint(text) else None
            return self.represent_scalar("tag:yaml.org,2002:str", text, style)

    Dumper.add_representer(str, Dumper.represent_text)
    return Dumper
