"""What a client's next connection would meet, for a person."""

from typing import Final

from userproxy.cli.output.tables import Column, Item, Table, indented, printable

_COLUMNS: Final = (
    Column("ENDPOINT", lambda item: str(item["endpoint"])),
    Column("NODE", lambda item: str(item["node"] or "-")),
    Column("READY", lambda item: str(item["ready"]).lower()),
    Column("USABLE", lambda item: str(item["usable"]).lower()),
    Column("REASON", lambda item: str(item["reason"] or "<none>")),
)


def explanation(found: Item) -> list[str]:
    """The lines."""
    name = f"{found['service']}:{found['port']}" if found["port"] else str(found["service"])
    whose = {"internal": "", "external": ", from elsewhere", "on-node": ", of this node"}
    one_of = " or ".join((found["next"], *found["alternatives"])) if found["next"] else ""
    next_one = f"{one_of}, because {found['next_reason']}" if found["next"] else "<none>"
    pairs = {
        "Service": f"{name} ({found['protocol']})",
        "Client": f"{found['client']}{whose[found['traffic']]}",
        "Portal": f"{found['portal']} ({found['kind']}, {found['driver']})",
        "Policy": f"{found['policy']}: endpoints of {'this node' if found['list'] == 'local' else 'the cluster'}",
        "Verdict": f"{found['verdict']}: {found['reason']}",
        "Next": next_one,
    }
    if found["source"]:
        seen = f"{found['source_address'] or '<unknown>'} (the {found['source']}'s)"
        pairs["Source"] = f"{seen}, because {found['source_reason']}"
    if found["header"]:
        pairs["Header"] = (
            f"{found['header']}: a trusted proxy begins with a PROXY header, and its client is whom that names"
        )
    lines = [printable(f"{title + ':':<10}{text}") for title, text in pairs.items()]
    if not found["endpoints"]:
        return [*lines, "Endpoints: <none>"]
    return [*lines, "Endpoints:", *indented(Table(_COLUMNS).lines(found["endpoints"]))]
