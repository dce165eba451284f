"""What checks find, in the form in which it is told: a clause about what there is, and one about what to do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from userproxy import doctor
from userproxy.doctor.findings import Finding, Outcome, Result, fail, ok, warn

FOLDER = Path(doctor.__file__).parent


def said() -> Iterator[tuple[str, str, list[ast.expr]]]:
    """Where a check calls `ok`, `warn` or `fail`, which of them, and with what."""
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in {"ok", "warn", "fail"}
            ):
                yield f"{path.name}:{node.lineno}", node.func.id, node.args


def ends(part: ast.expr) -> list[str]:
    """How a text may end, as far as that stands in the source."""
    match part:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=[*_, last]):
            return ends(last)
        case ast.IfExp(body=one, orelse=other):
            return [*ends(one), *ends(other)]
    return []


def test_an_outcome_is_as_bad_as_it_is_called() -> None:
    assert ok("fine") == Outcome(Result.OK, "fine", "")
    assert warn("odd", "look") == Outcome(Result.WARN, "odd", "look")
    assert fail("broken", "mend") == Outcome(Result.FAIL, "broken", "mend")


def test_a_finding_in_json_has_the_words_that_the_documentation_has() -> None:
    found = Finding("kernel", Result.WARN, "no module", "load it")
    assert msgspec.json.encode(found) == (b'{"name":"kernel","result":"warn","text":"no module","advice":"load it"}')
    assert [str(result) for result in Result] == ["ok", "warn", "fail"]


@pytest.mark.parametrize(("where", "result", "arguments"), list(said()), ids=[where for where, _, _ in said()])
def test_what_is_told_are_clauses_and_what_is_wrong_has_advice(
    where: str, result: str, arguments: list[ast.expr]
) -> None:
    assert len(arguments) == (1 if result == "ok" else 2), f"{where}: nobody knows what to do about it"
    for each in arguments:
        for text in ends(each):
            assert not text.endswith("."), f"{where}: a line of the doctor goes on after it: {text}"
            assert text.strip(), where
