"""The API server, asked as a proxy with these settings would ask it."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from userproxy.cluster.api_errors import ApiError
from userproxy.cluster.client import Answer, ApiClient, open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.nodes import own_node_name
from userproxy.cluster.objects.resources import own_node
from userproxy.config import Settings
from userproxy.doctor.findings import Outcome, Result, fail, ok, warn
from userproxy.errors import UsageError

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_IDLE_SECONDS: Final = 10.0
_ROLE: Final = "examples/kubernetes/base/rbac.yaml has a ClusterRole with all that is needed"

_SKEW_WORTH_TELLING: Final = 5.0
_SKEW_THAT_BREAKS: Final = 60.0
"""Seconds. New tokens and certificates are not valid yet, or are not any more, for a clock that is off so much."""


class _Need(Struct, frozen=True):
    """What is to be permitted, and what goes wrong without it."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    without: str
    result: Result


_NEEDS: Final = (
    _Need("", "services", ("list", "watch"), "no Service is known", Result.FAIL),
    _Need("discovery.k8s.io", "endpointslices", ("list", "watch"), "no endpoint is known", Result.FAIL),
    _Need("", "nodes", ("list", "watch"), "zones and addresses of Nodes are not known", Result.WARN),
    _Need("events.k8s.io", "events", ("create", "patch"), "problems are not reported as Events", Result.WARN),
)


class _ReviewStatus(Struct):
    allowed: bool = False


class _Review(Struct):
    status: _ReviewStatus = msgspec.field(default_factory=_ReviewStatus)


class _Items(Struct):
    items: list[Any] | None = None


def api(settings: Settings) -> Iterator[Outcome]:
    """Whether the API server can be reached, what it permits, what time it has, and whether it knows our Node."""
    if settings.manifests:
        yield ok("manifests are the source of Services: no API server is needed")
        return
    if not (settings.kubeconfig or settings.master or os.environ.get("KUBERNETES_SERVICE_HOST")):
        yield ok("not looked at: neither --kubeconfig nor --master names an API server, and this is no Pod")
        return
    if not (settings.kubeconfig or settings.master):
        yield warn(
            f"the API server is asked at its Service's cluster IP {os.environ['KUBERNETES_SERVICE_HOST']}, which a node"
            " reaches only by a proxy that runs already",
            "give --kubeconfig or --master with the control plane's own address",
        )
    yield from asyncio.run(_collected(settings))


async def _collected(settings: Settings) -> list[Outcome]:
    return [outcome async for outcome in _examined(settings)]


async def _examined(settings: Settings) -> AsyncIterator[Outcome]:
    access = ApiAccess(kubeconfig=settings.kubeconfig, context=settings.context, master=settings.master)
    try:
        client = await open_client(access)
    except UsageError as error:
        yield fail(f"credentials cannot be used: {error}", "mend the file that is named")
        return
    try:
        async for outcome in _asked(client, settings):
            yield outcome
    except ApiError as error:
        yield fail(str(error), "check the address, the way there (routes, firewalls, proxies), certificates and tokens")
    finally:
        await client.close()


async def _asked(client: ApiClient, settings: Settings) -> AsyncIterator[Outcome]:
    sent = time.time()
    answer = await _review(client, _NEEDS[0], "list")
    received = time.time()
    if answer.status == 401:
        yield fail(f"{client.redacted_server} does not know us (401)", "renew the token or the client certificate")
        return
    yield ok(f"{client.redacted_server} answers after {received - sent:.3f} s")
    yield _clock(answer.date, (sent + received) / 2)
    denied = False
    for need in _NEEDS:
        outcome = await _permitted(client, need)
        denied |= outcome.result is not Result.OK and need.resource == "nodes"
        yield outcome
    if not denied:
        yield await _node(client, settings)


async def _permitted(client: ApiClient, need: _Need) -> Outcome:
    what = f"{need.resource}{f'.{need.group}' if need.group else ''}"
    lacking = []
    for verb in need.verbs:
        answer = await _review(client, need, verb)
        if answer.status not in (200, 201):
            return warn(f"what is permitted of {what} is not told ({answer.status})", _ROLE)
        if not _allows(answer.body):
            lacking.append(verb)
    if not lacking:
        return ok(f"{' and '.join(need.verbs)} {what} is permitted")
    text = f"{' and '.join(lacking)} {what} is forbidden, and without that {need.without}"
    rule = f'apiGroups: ["{need.group}"], resources: ["{need.resource}"], verbs: {list(need.verbs)}'
    return Outcome(need.result, text, f"give our ClusterRole the rule {rule}".replace("'", '"') + f"; {_ROLE}")


async def _review(client: ApiClient, need: _Need, verb: str) -> Answer:
    asked = {"group": need.group, "resource": need.resource, "verb": verb}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return await client.review(_REVIEWS, msgspec.json.encode(review))


def _allows(body: bytes) -> bool:
    try:
        return msgspec.json.decode(body, type=_Review).status.allowed
    except msgspec.DecodeError:
        return False


def _clock(date: str, now: float) -> Outcome:
    """A comparison of our clock with the server's, which says whole seconds and cuts off the rest."""
    try:
        server = parsedate_to_datetime(date).timestamp() + 0.5
    except ValueError:
        return warn("the API server does not say what time it has", "compare the clocks by hand")
    skew = now - server
    if abs(skew) < _SKEW_WORTH_TELLING:
        return ok("our clock and the API server's agree to within a few seconds")
    text = f"our clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API server's"
    tell = fail if abs(skew) >= _SKEW_THAT_BREAKS else warn
    return tell(text, "synchronise this node's clock (chronyc tracking, timedatectl)")


async def _node(client: ApiClient, settings: Settings) -> Outcome:
    name = own_node_name(settings.hostname_override or "", socket.gethostname())
    resource = own_node(name)
    body = b""
    async with client.get(resource, "list", resource.selectors, _IDLE_SECONDS) as chunks:
        async for chunk in chunks:
            body += chunk
    if msgspec.json.decode(body, type=_Items).items:
        return ok(f"our Node {name} is there")
    return warn(
        f"there is no Node {name}, so no endpoint is taken for one of this node, and there is no zone",
        "say by --hostname-override what this node's Node is called",
    )
