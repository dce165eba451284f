"""Requests over HTTP: who may do what, and what they get."""

import asyncio
import gzip
import hmac
import time
from collections import deque
from collections.abc import Mapping
from email.utils import formatdate
from ssl import SSLObject
from typing import Any

import msgspec
from aiohttp import web

from tests.lab.apiserver.event_rules import check_changed_event, check_new_event
from tests.lab.apiserver.faults import HANG, TRUNCATE, Faults, Trouble
from tests.lab.apiserver.listing import list_body
from tests.lab.apiserver.resources import RESOURCES, Resource, Target, parse_path
from tests.lab.apiserver.status import ApiError, forbidden
from tests.lab.apiserver.storage import Object, Storage
from tests.lab.apiserver.streams import Stream

_USER = "system:kube-proxy"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_GZIP_FROM = 128 * 1024
"""Real servers compress answers from this size on, for clients that accept it."""

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_MERGES = ("application/merge-patch+json", "application/strategic-merge-patch+json")


class Recorded(msgspec.Struct, frozen=True):
    """A request as it came, refused ones too."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Rest:
    """The API as an aiohttp handler. `tokens` empty and `authenticate` False let everybody in."""

    def __init__(self, storage: Storage, faults: Faults) -> None:
        self.storage = storage
        self.faults = faults
        self.authenticate = False
        self.tokens: set[str] = set()
        self.requests: deque[Recorded] = deque(maxlen=20_000)
        self.streams: set[Stream] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; an ApiError becomes its Status."""
        self.requests.append(Recorded(request.method, request.path, dict(request.query), dict(request.headers)))
        try:
            response = await self._answer(request)
        except ApiError as error:
            headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            response = _json(msgspec.json.encode(error.status()), error.code, headers)
        if self.faults.clock_ahead and not response.prepared:
            response.headers["Date"] = formatdate(time.time() + self.faults.clock_ahead, usegmt=True)
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if self.authenticate and not self._is_known(request):
            raise ApiError(401)
        if request.path == _REVIEWS and request.method == "POST":
            return self._review(await _body(request))
        target = parse_path(request.path)
        if target is None:
            return _discovery(request.path)
        if target.resource.plural in self.faults.forbidden:
            raise forbidden(target.resource, _verb(request, target), _USER, target.namespace, target.name)
        trouble = self.faults.next_trouble(target.resource)
        if trouble is not None and trouble.status != TRUNCATE:
            await _suffer(request, trouble)
        if _verb(request, target) == "watch":
            return await self._watch(request, target)
        response = await self._serve(request, target)
        return response if trouble is None else await _send_half(request, response)

    def _review(self, asked: Object) -> web.Response:
        """Whether the client may do what it asks about."""
        about = asked["spec"]["resourceAttributes"]
        known = [each for each in RESOURCES if (each.group, each.plural) == (about["group"], about["resource"])]
        allowed = bool(known) and about["resource"] not in self.faults.forbidden
        return _json(msgspec.json.encode({**asked, "status": {"allowed": allowed}}), 201)

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        query = dict(request.query)
        if target.name:
            query["fieldSelector"] = f"metadata.name={target.name}"
        stream = Stream(self.storage, self.faults, target, query)
        self.streams.add(stream)
        try:
            return await stream.serve(request)
        finally:
            self.streams.discard(stream)

    async def _serve(self, request: web.Request, target: Target) -> web.Response:
        key = (target.namespace, target.name)
        match request.method:
            case "GET" if target.name:
                return _json(self.storage.get(target.resource, key).full)
            case "GET":
                return _compressed(request, list_body(self.storage, target, request.query))
            case "POST" if not target.name:
                document = _placed(await _body(request), target)
                if target.resource.kind == "Event":
                    check_new_event(document)
                return _json(self.storage.create(document).full, 201)
            case "PUT" if target.name:
                document = _placed(await _body(request), target)
                return _json(self.storage.update(target.resource, key, lambda _old: document).full)
            case "PATCH" if target.name:
                if request.content_type not in _MERGES:
                    raise ApiError(415, f"the body of the request was in an unknown format - accepted are: {_MERGES}")
                patch = await _body(request)
                return _json(self.storage.update(target.resource, key, lambda old: _patched(old, patch)).full)
            case "DELETE" if target.name:
                gone = self.storage.delete(target.resource, key)
                uid = gone.document["metadata"]["uid"]
                details = {"name": target.name, "kind": target.resource.plural, "uid": uid}
                body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
                return _json(msgspec.json.encode(body))
        raise ApiError(405)

    def _is_known(self, request: web.Request) -> bool:
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport else None
        if isinstance(tls, SSLObject) and tls.getpeercert():
            return True
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return scheme == "Bearer" and any(hmac.compare_digest(token, valid) for valid in self.tokens)


def _verb(request: web.Request, target: Target) -> str:
    if request.method == "GET":
        if request.query.get("watch") in ("true", "1"):
            return "watch"
        return "get" if target.name else "list"
    return _VERBS.get(request.method, request.method.lower())


async def _suffer(request: web.Request, trouble: Trouble) -> None:
    if trouble.status != HANG:
        raise ApiError(trouble.status, retry_after=trouble.retry_after)
    await asyncio.sleep(trouble.seconds)
    if request.transport is not None:
        request.transport.abort()


async def _send_half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    body = whole.body
    assert isinstance(body, bytes)
    half = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half


async def _body(request: web.Request) -> Object:
    try:
        document = msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the object provided is unrecognized (must be of type object): {error}") from error
    return document


def _placed(document: Object, target: Target) -> Object:
    """The object with what the path says of it. Raises ApiError 400 where they disagree."""
    metadata = dict(document.get("metadata") or {})
    for field, value in (("namespace", target.namespace), ("name", target.name)):
        if value and metadata.setdefault(field, value) != value:
            raise ApiError(400, f"the {field} of the object ({metadata[field]}) does not match the URL ({value})")
    if not metadata.get("name"):
        raise ApiError(422, f'{target.resource.kind} "" is invalid: metadata.name: Required value: name is required')
    return {**document, "kind": target.resource.kind, "metadata": metadata}


def _patched(old: Object, patch: Object) -> Object:
    """Raises ApiError 422 for an Event that may not be changed so."""
    new: Object = _merged(old, patch)
    if old["kind"] == "Event":
        check_changed_event(new, old)
    return new


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _compressed(request: web.Request, body: bytes) -> web.Response:
    if len(body) < _GZIP_FROM or "gzip" not in request.headers.get("Accept-Encoding", ""):
        return _json(body)
    return _json(gzip.compress(body, 1), headers={"Content-Encoding": "gzip"})


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json", **(headers or {})})


def _discovery(path: str) -> web.Response:
    """What kubectl asks for before anything else. Raises ApiError 404."""
    found: dict[str, Any] | None = None
    groups = sorted({resource.group for resource in RESOURCES if resource.group})
    if path == "/version":
        found = {"major": "1", "minor": "36", "gitVersion": "v1.36.2"}
    elif path == "/api":
        found = {"kind": "APIVersions", "versions": ["v1"]}
    elif path == "/apis":
        found = {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(group) for group in groups]}
    elif here := [resource for resource in RESOURCES if resource.base == path]:
        entries = [_entry(resource) for resource in here]
        found = {"kind": "APIResourceList", "groupVersion": here[0].api_version, "resources": entries}
    if found is None:
        raise ApiError(404)
    return _json(msgspec.json.encode(found))


def _group(name: str) -> dict[str, Any]:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _entry(resource: Resource) -> dict[str, Any]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {"name": resource.plural, "kind": resource.kind, "namespaced": resource.namespaced, "verbs": verbs}
