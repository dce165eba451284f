"""What Prometheus and ``promtool check metrics`` would say of the text on the metrics port."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry
from prometheus_client.samples import Sample

_SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "summary": ("_count", "_sum"),
    "histogram": ("_bucket", "_count", "_sum"),
}

_KUBE_PROXYS: Final = "kubeproxy_"
"""Some of its gauges end in ``_total``; the names are its own."""


def parsed(text: str) -> dict[str, Metric]:
    """The families of a text by name. A counter's name has no ``_total``."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples by name and labels."""
    return {_key(sample): sample.value for family in parsed(text).values() for sample in family.samples}


def value(text: str, name: str, **labels: str) -> float:
    """The sum of all samples of this name that have these labels, among others; KeyError if there is none."""
    found = [each for (its, have), each in samples(text).items() if its == name and labels.items() <= set(have)]
    if not found:
        raise KeyError(name, labels)
    return sum(found)


def faults(text: str) -> list[str]:
    """What is wrong with a text, one sentence each."""
    return [*_headers(text), *(fault for family in parsed(text).values() for fault in _family(family)), *_again(text)]


def _headers(text: str) -> Iterator[str]:
    """Each family has one HELP and one TYPE, in this order, and its samples follow."""
    seen: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        if line.startswith("#"):
            _, kind, name, *rest = line.split(" ", 3)
            seen[name].append(kind)
            if not rest or not rest[0].strip():
                yield f"{name}: an empty {kind}"
            elif kind == "TYPE" and rest[0] == "counter" and not name.endswith("_total"):
                yield f"{name}: a counter that is not called a total"
    for name, kinds in seen.items():
        if kinds != ["HELP", "TYPE"]:
            yield f"{name}: {kinds} where HELP and TYPE belong"


def _family(family: Metric) -> Iterator[str]:
    if family.type not in _SUFFIXES:
        yield f"{family.name}: type {family.type}"
        return
    allowed = {family.name + suffix for suffix in _SUFFIXES[family.type]}
    seen = set()
    for sample in family.samples:
        if sample.name not in allowed:
            yield f"{sample.name}: does not belong to a {family.type}"
        if _key(sample) in seen:
            yield f"{sample.name}: twice with {sample.labels}"
        seen.add(_key(sample))
        if math.isnan(sample.value) or (family.type != "gauge" and sample.value < 0):
            yield f"{sample.name}: {sample.value}"
    if family.type == "gauge" and family.name.endswith("_total") and not family.name.startswith(_KUBE_PROXYS):
        yield f"{family.name}: a gauge that is called a total"
    if family.type == "histogram":
        yield from _histogram(family)


def _histogram(family: Metric) -> Iterator[str]:
    """Buckets in order up to +Inf, none smaller than the one before, the last as large as the count."""
    buckets: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = defaultdict(list)
    counts: dict[frozenset[tuple[str, str]], float] = {}
    for sample in family.samples:
        labels = frozenset((name, text) for name, text in sample.labels.items() if name != "le")
        if sample.name.endswith("_bucket"):
            buckets[labels].append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            counts[labels] = sample.value
    if buckets.keys() != counts.keys():
        yield f"{family.name}: not each series has buckets and a count"
    for labels, series in buckets.items():
        if series != sorted(series) or [each for _, each in series] != sorted(each for _, each in series):
            yield f"{family.name}: buckets out of order for {sorted(labels)}"
        if series[-1] != (math.inf, counts.get(labels)):
            yield f"{family.name}: the last bucket is {series[-1]}, the count {counts.get(labels)}"


def _again(text: str) -> Iterator[str]:
    """What is read and written again is the same."""
    registry = CollectorRegistry()
    registry.register(_Read(text))
    written = generate_latest(registry).decode()
    if samples(written) != samples(text) or set(parsed(written)) != set(parsed(text)):
        yield "written again it is another text"


class _Read:
    def __init__(self, text: str) -> None:
        self._families = list(parsed(text).values())

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _key(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    return sample.name, frozenset(sample.labels.items())
