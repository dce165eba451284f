"""The queries of the dashboard and of the alert rules."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

DIRECTORY: Final = Path(__file__).parents[2] / "examples" / "monitoring"
_VALUES: Final = re.compile(r"label_values\((?P<metric>.+), (?P<label>\w+)\)")


def dashboard() -> dict[str, Any]:
    loaded = json.loads((DIRECTORY / "dashboard.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DIRECTORY / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Each query, and where it stands. Grafana's variables are as a person has them who chose nothing."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], _filled_in(target["expr"])
    for variable in dashboard()["templating"]["list"]:
        if match := _VALUES.fullmatch(variable.get("definition", "")):
            label = match["label"]
            yield f"variable {variable['name']}", f"count by ({label}) ({_filled_in(match['metric'])})"


def _filled_in(expression: str) -> str:
    return re.sub(r"\$(job|instance|namespace|service)\b", ".*", expression.replace("$__rate_interval", "1m"))
