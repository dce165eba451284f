"""What a PromQL expression asks for: names of metrics, labels, and what functions want of them.

No parser of PromQL: just enough of its tokens to see that a query asks for what there is. Where there is ``promtool``,
tests have that read the expressions, too.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct
from prometheus_client import Metric

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[a-zA-Z_:][\w:]*|[!=<>]=|=~|!~|\$\w+|[0-9.]+\w*|\S')
_NAME: Final = re.compile(r"[a-zA-Z_:][\w:]*")
_AGGREGATIONS: Final = frozenset({"sum", "max", "min", "avg", "count", "topk", "bottomk"})
_FUNCTIONS: Final = frozenset({"rate", "increase", "histogram_quantile", "time"})
_LABEL_LISTS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_OPERATORS: Final = frozenset({"and", "or", "unless", "bool"})
_OF_PROMETHEUS: Final = frozenset({"job", "instance"})
"""Labels that Prometheus adds to what it reads."""


class Selector(Struct, frozen=True):
    """A metric that is asked for. `matchers` has operator and text by label, `over_time` is the function around it."""

    name: str
    matchers: Mapping[str, tuple[str, str]] = {}
    over_time: str = ""


class Expression(Struct, frozen=True):
    """What is asked for in an expression, and the labels that it groups by."""

    selectors: tuple[Selector, ...]
    grouped_by: frozenset[str]
    quantile: bool = False


def read(text: str) -> Expression:
    """Raises ValueError for brackets without their other half, or a function that is not known here."""
    tokens = _TOKEN.findall(text)
    _check_brackets(tokens)
    selectors, grouped = [], set[str]()
    index = 0
    while index < len(tokens):
        token = tokens[index]
        following = tokens[index + 1] if index + 1 < len(tokens) else ""
        if token in _LABEL_LISTS:
            end = tokens.index(")", index)
            grouped |= {each for each in tokens[index + 2 : end] if each != ","}
            index = end
        elif _NAME.fullmatch(token) and token not in _OPERATORS:
            if following == "(" or token in _AGGREGATIONS:
                if token not in _AGGREGATIONS | _FUNCTIONS:
                    raise ValueError(f"{token}: not known here")
            else:
                matchers, end = _matchers(tokens, index + 1)
                around = tokens[index - 2] if index >= 2 and tokens[index - 1] == "(" else ""
                selectors.append(Selector(token, matchers, around))
                index = end
        elif token == "[":
            index = tokens.index("]", index)
        index += 1
    return Expression(tuple(selectors), frozenset(grouped), "histogram_quantile" in tokens)


def faults(text: str, families: Mapping[str, Metric]) -> Iterator[str]:
    """What of an expression `families` cannot answer, one sentence each."""
    expression = read(text)
    have = {sample.name: family for family in families.values() for sample in family.samples}
    for selector in expression.selectors:
        if selector.name == "up":
            continue
        family = have.get(selector.name)
        if family is None:
            yield f"{selector.name}: there is no such metric"
            continue
        yield from _selector_faults(selector, family)
        wanted = expression.grouped_by - _OF_PROMETHEUS
        there = _labels(selector.name, family)
        if wanted - there.keys():
            yield f"{selector.name}: has no {sorted(wanted - there.keys())}"
        if expression.quantile and "le" not in expression.grouped_by:
            yield f"{selector.name}: a quantile needs le"


def _selector_faults(selector: Selector, family: Metric) -> Iterator[str]:
    there = _labels(selector.name, family)
    for label, (operator, value) in selector.matchers.items():
        if label in _OF_PROMETHEUS:
            continue
        if label not in there:
            yield f"{selector.name}: has no label {label}"
        elif operator == "=" and value not in there[label]:
            yield f"{selector.name}: no sample has {label}={value!r}"
    if (family.type != "gauge") is not (selector.over_time in {"rate", "increase"}) and family.name[:8] != "process_":
        yield f"{selector.name}: a {family.type} inside {selector.over_time or 'nothing'}"


def _labels(name: str, family: Metric) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for sample in family.samples:
        if sample.name == name:
            for label, value in sample.labels.items():
                found.setdefault(label, set()).add(value)
    return found


def _matchers(tokens: list[str], index: int) -> tuple[dict[str, tuple[str, str]], int]:
    """The matchers that follow a name, and where they end."""
    if index >= len(tokens) or tokens[index] != "{":
        return {}, index - 1
    end = tokens.index("}", index)
    inside = [token for token in tokens[index + 1 : end] if token != ","]
    if len(inside) % 3:
        raise ValueError(f"{' '.join(inside)}: not label, operator and text")
    triples = zip(inside[::3], inside[1::3], inside[2::3], strict=True)
    return {label: (operator, text.strip('"')) for label, operator, text in triples}, end


def _check_brackets(tokens: list[str]) -> None:
    closing = {"(": ")", "{": "}", "[": "]"}
    waiting: list[str] = []
    for token in tokens:
        if token in closing:
            waiting.append(closing[token])
        elif token in closing.values() and (not waiting or waiting.pop() != token):
            raise ValueError(f"{token} closes nothing")
    if waiting:
        raise ValueError(f"no {waiting[-1]}")
