"""One answer to a list request: whole, or page by page."""

import base64
from collections.abc import Mapping

import msgspec

from tests.lab.apiserver.resources import Target
from tests.lab.apiserver.selectors import Predicate, selects
from tests.lab.apiserver.status import ApiError, too_large
from tests.lab.apiserver.storage import Key, Storage, Version, etcd_order


class _Token(msgspec.Struct, frozen=True):
    """What a continue token holds; revision -1 goes on in the newest state."""

    revision: int
    start: str


def parse_revision(text: str) -> int:
    """0 where it is empty. Raises ApiError 400."""
    if text and not text.isdecimal():
        raise ApiError(400, f'resourceVersion: Invalid value: "{text}": it is no whole number')
    return int(text or 0)


def predicate_of(target: Target, query: Mapping[str, str]) -> Predicate:
    """What the request's path and selectors let through. Raises ApiError 400."""
    selected = selects(target.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    if not target.namespace:
        return selected
    return lambda item: item["metadata"].get("namespace") == target.namespace and selected(item)


def list_body(storage: Storage, target: Target, query: Mapping[str, str]) -> bytes:
    """The list as JSON. Raises ApiError: 400 for the query, 410 for what is compacted, 504 for what is to come."""
    token = _decode(query["continue"]) if query.get("continue") else None
    wanted = parse_revision(query.get("resourceVersion", ""))
    if token is None and wanted > storage.revision:
        raise too_large(wanted, storage.revision)
    exact = wanted if query.get("resourceVersionMatch") == "Exact" else None
    revision, entries = _snapshot(storage, target, token, exact)
    predicate = predicate_of(target, query)
    start = token.start if token else ""
    rest = [entry for entry in entries if etcd_order(entry[0]) > start and predicate(entry[1].document)]
    limit = parse_revision(query.get("limit", "")) or len(rest)
    page, left = rest[:limit], len(rest) - limit
    metadata: dict[str, object] = {"resourceVersion": str(revision)}
    if left > 0:
        metadata["continue"] = _encode(_Token(revision, etcd_order(page[-1][0])))
        if not query.get("labelSelector") and not query.get("fieldSelector"):
            metadata["remainingItemCount"] = left
    return _body(target, metadata, [version for _, version in page])


def _snapshot(
    storage: Storage, target: Target, token: _Token | None, exact: int | None
) -> tuple[int, list[tuple[Key, Version]]]:
    if token is None:
        return storage.snapshot(target.resource, exact)
    try:
        return storage.snapshot(target.resource, None if token.revision < 0 else token.revision)
    except ApiError as error:
        raise ApiError(
            error.code,
            "The provided continue parameter is too old to display a consistent list result. You can start a new list"
            " without the continue parameter, or use the continue token in this response to retrieve the remainder of"
            " the results.",
            continue_token=_encode(_Token(-1, token.start)),
        ) from error


def _body(target: Target, metadata: dict[str, object], versions: list[Version]) -> bytes:
    head = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version, "metadata": metadata}
    items = b",".join([version.item for version in versions])
    return msgspec.json.encode(head)[:-1] + b',"items":[' + items + b"]}"


def _encode(token: _Token) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def _decode(text: str) -> _Token:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=_Token)
    except ValueError as error:
        raise ApiError(400, "continue key is not valid: it is no token of this server") from error
