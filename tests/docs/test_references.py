"""Files, functions and nouns that the documentation names are there."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from userproxy import model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GLOSSARY = ROOT / "docs" / "glossary.md"

_REFERENCE = re.compile(r"`([\w./-]+\.(?:py|md|toml|ini))(?:: ([\w.]+))?`")
_DIRECTORY = re.compile(r"`((?:tests|docs|userproxy|examples)(?:/\w+)*)/?`")
_PLACEHOLDER = re.compile(r"\b(?:AREA|NAME)\b")
_DOTTED = re.compile(r"`((?:cluster|config|forwarding|portals|proxier|routing|tcp|telemetry|udp|wiring)(?:\.\w+)+)`")
_NOUN = re.compile(r"`([A-Z]\w+)`")


def found(name: str) -> Path | None:
    """The file or directory that a page calls `name`: from the root of the repository, or below userproxy."""
    return next((path for path in (ROOT / name, ROOT / "userproxy" / name) if path.exists()), None)


@cache
def defined(path: Path) -> frozenset[str]:
    """Classes, functions, methods and constants of a module, methods as ``Class.method``."""
    return frozenset(_names(ast.parse(path.read_text()).body, ""))


def is_there(dotted: str) -> bool:
    """Whether ``package.module.Class.method``, or the beginning of such a name, is one of userproxy's."""
    path, parts = ROOT / "userproxy", dotted.split(".")
    if parts[0] in {"tcp", "udp"}:
        path /= "forwarding"
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    if parts:
        path /= f"{parts.pop(0)}.py"
    return path.exists() and (not parts or ".".join(parts) in defined(path))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _names(node.body, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text())
    missing = []
    for name, inside in _REFERENCE.findall(text):
        path = found(name)
        if path is None or (inside and inside not in defined(path)):
            missing.append(f"{name}: {inside}" if inside else name)
    missing += [name for name in _DOTTED.findall(text) if not name.endswith((".py", ".md")) and not is_there(name)]
    missing += [name for name in _DIRECTORY.findall(text) if found(name) is None]
    assert [name for name in missing if not _PLACEHOLDER.search(name)] == []


def test_the_nouns_of_the_glossary_are_classes_of_the_source() -> None:
    classes = set[str]().union(*(defined(path) for path in (ROOT / "userproxy").rglob("*.py")))
    assert set(_NOUN.findall(GLOSSARY.read_text())) - classes == set()


def test_every_noun_of_the_model_is_in_the_glossary() -> None:
    nouns = {name for name in model.__all__ if name[0].isupper()}
    assert nouns - set(_NOUN.findall(GLOSSARY.read_text())) == set()


def test_what_make_check_tests_exists() -> None:
    directories = re.search(r"^TESTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert directories is not None
    assert [name for name in directories[1].split() if "/" in name and "*" not in name and found(name) is None] == []
