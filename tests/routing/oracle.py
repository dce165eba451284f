"""The tables of kube-proxy's behaviour (endpoint selection and fate of a flow) once more: literal, slow, plain dicts.

A row is one endpoint of one slice: ``key``, ``ready``, ``serving``, ``terminating``, ``node``, ``zones``, ``nodes``.
"""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def merge(rows: Iterable[Row]) -> list[Row]:
    """A non-terminating duplicate replaces what is there, a terminating one never replaces."""
    rows = list(rows)
    merged = []
    for key in {row["key"] for row in rows}:
        same = [row for row in rows if row["key"] == key]
        lasting = [row for row in same if not row["terminating"]]
        merged.append(lasting[-1] if lasting else same[0])
    return merged


def topology_mode(rows: list[Row], node: str, zone: str | None) -> str:
    """Decided over ready endpoints only; the tests in their order."""
    ready = [row for row in rows if row["ready"]]
    if len(ready) == 0:
        return "none"
    if not [row for row in ready if row["nodes"] == set()] and [row for row in ready if node in row["nodes"]]:
        return "same-node"
    if not [row for row in ready if row["zones"] == set()] and [row for row in ready if zone in row["zones"]]:
        return "same-zone"
    return "none"


def lists(rows: Iterable[Row], facts: Row) -> Row:
    """The lists for a service port.

    `facts` are ``internal_local``, ``external_local``, ``accessible``, ``node`` and ``zone``.
    """
    rows = merge(rows)
    internal_local, external_local, accessible = (
        facts[fact] for fact in ("internal_local", "external_local", "accessible")
    )
    uses_cluster = True if accessible else not internal_local
    uses_local = True if internal_local else external_local and accessible

    def keys(*conditions: str, local: bool = False) -> set[Any]:
        return {
            row["key"]
            for row in rows
            if all(row[condition] for condition in conditions) and (not local or row["node"] == facts["node"])
        }

    mode = topology_mode(rows, facts["node"], facts["zone"]) if uses_cluster else "none"
    cluster, local, local_from_terminating = None, None, False
    if uses_cluster:
        cluster = {
            "none": keys("ready"),
            "same-node": {row["key"] for row in rows if row["ready"] and facts["node"] in row["nodes"]},
            "same-zone": {row["key"] for row in rows if row["ready"] and facts["zone"] in row["zones"]},
        }[mode]
        if cluster == set():
            cluster = keys("serving", "terminating")
    if uses_local:
        local = keys("ready", local=True)
        if local == set():
            local = keys("serving", "terminating", local=True)
            local_from_terminating = True
    has_any = bool(cluster)
    if uses_local:
        has_any = has_any or keys("ready") | keys("serving", "terminating") != set()
    if local is None:
        reachable = cluster
    elif cluster is None:
        reachable = local
    elif mode == "none" and not local_from_terminating:
        reachable = cluster
    else:
        reachable = cluster | local
    return {"cluster": cluster, "local": local, "has_any": has_any, "reachable": reachable}


def external_policy_is_local(service: Row) -> bool:
    """`service` has ``type``, ``external_ips`` and ``external_local``."""
    by_type = {
        "NodePort": True,
        "LoadBalancer": True,
        "ClusterIP": len(service["external_ips"]) >= 1,
    }
    return by_type[service["type"]] and service["external_local"]


def fate(rows: Iterable[Row], facts: Row, destination: str, source: str) -> tuple[str, set[Any]]:
    """What becomes of a new flow: "serve" and by whom, or "drop", or "reject".

    `destination` is "clusterIP" or one of the external kinds, `source` is "pod", "host" or "other".
    """
    chosen = lists(rows, facts)
    if destination == "clusterIP":
        which = "local" if facts["internal_local"] else "cluster"
    elif not facts["external_local"]:
        which = "cluster"
    else:
        which = {"pod": "cluster", "host": "cluster", "other": "local"}[source]
    if chosen[which]:
        return "serve", chosen[which]
    usable_somewhere = [row for row in merge(rows) if row["ready"] or (row["serving"] and row["terminating"])]
    return ("drop" if usable_somewhere else "reject"), set()
