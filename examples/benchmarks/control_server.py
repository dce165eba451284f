"""As much of an API server as userproxy asks for: lists, streamed or in pages, and watches that tell of changes."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

Object = dict[str, Any]

_VERSIONS = {"services": "v1", "nodes": "v1", "endpointslices": "discovery.k8s.io/v1"}
_KINDS = {"services": "Service", "nodes": "Node", "endpointslices": "EndpointSlice"}

_EXPIRED = (
    b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}}\n'
)


_SENT_AT_ONCE = 64 * 1024
"""Bytes that a server elsewhere has on its way. On loopback the kernel carries all of a send buffer, megabytes by
default, to its receiver before anybody else gets that CPU."""


class ControlServer(ThreadingHTTPServer):
    """Objects by plural of their resource, on a port of 127.0.0.1. Everything is rendered before it is asked for.

    One that stands for a server `elsewhere` takes a CPU only while nobody else wants it (SCHED_IDLE, sched(7)).
    """

    daemon_threads = True

    def __init__(self, objects: Mapping[str, Sequence[Object]], page: int = 500, *, elsewhere: bool = False) -> None:
        self.elsewhere = elsewhere
        self._revision = 1_000_000
        self._pages = {plural: self._render(plural, items, page) for plural, items in objects.items()}
        self._streams = {plural: self._render_stream(plural, items) for plural, items in objects.items()}
        self._watches: dict[str, list[SimpleQueue[bytes | None]]] = {plural: [] for plural in objects}
        self._ended = Counter[str]()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Say nothing of clients that hang up: measuring ends so."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def page(self, plural: str, number: int) -> bytes | None:
        """One page of a list, or None where there is no such resource."""
        pages = self._pages.get(plural)
        return pages[number] if pages and number < len(pages) else None

    def stream(self, plural: str) -> bytes:
        """A list as the initial events of a watch, up to the bookmark that ends them."""
        return self._streams[plural]

    def add(self, plural: str, item: Object) -> None:
        """Tell all watches that there is `item`; lists stay what they were."""
        self._tell("ADDED", plural, item)

    def modify(self, plural: str, item: Object) -> None:
        """Tell all watches that `item` is now as given; lists stay what they were."""
        self._tell("MODIFIED", plural, item)

    def remove(self, plural: str, item: Object) -> None:
        """Tell all watches that `item` is gone; lists stay what they were."""
        self._tell("DELETED", plural, item)

    def expire(self, plural: str) -> None:
        """End all watches with the word that only a new list helps."""
        queues, self._watches[plural] = self._watches[plural], []
        self._ended[plural] += len(queues)
        for queue in queues:
            queue.put(_EXPIRED)
            queue.put(None)

    def watches(self, plural: str) -> int:
        """How many watches have begun."""
        return self._ended[plural] + len(self._watches[plural])

    def _tell(self, kind: str, plural: str, item: Object) -> None:
        self._revision += 1
        line = _event(kind, plural, _versioned(item, self._revision))
        for queue in self._watches[plural]:
            queue.put(line)

    def subscribe(self, plural: str) -> SimpleQueue[bytes | None]:
        """Lines for one more watch; None ends it."""
        queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._watches[plural].append(queue)
        return queue

    def end_watches(self) -> None:
        for queues in self._watches.values():
            for queue in queues:
                queue.put(None)

    def _render(self, plural: str, items: Sequence[Object], size: int) -> list[bytes]:
        pages = []
        for start in range(0, max(len(items), 1), size):
            following = start // size + 1 if start + size < len(items) else 0
            metadata = {"resourceVersion": str(self._revision), **({"continue": str(following)} if following else {})}
            content = [_versioned(item, 1 + start + n) for n, item in enumerate(items[start : start + size])]
            head = {"kind": f"{_KINDS[plural]}List", "apiVersion": _VERSIONS[plural]}
            pages.append(msgspec.json.encode({**head, "metadata": metadata, "items": content}))
        return pages

    def _render_stream(self, plural: str, items: Sequence[Object]) -> bytes:
        added = [_event("ADDED", plural, _versioned(item, 1 + n)) for n, item in enumerate(items)]
        annotations = {"k8s.io/initial-events-end": "true"}
        end = {"metadata": {"resourceVersion": str(self._revision), "annotations": annotations}}
        return b"".join([*added, _event("BOOKMARK", plural, end)])


@contextmanager
def serving(objects: Mapping[str, Sequence[Object]], *, elsewhere: bool = False) -> Iterator[ControlServer]:
    """A running server, which ends with the context."""
    with ControlServer(objects, elsewhere=elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, name="control server", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.end_watches()
            server.shutdown()
            thread.join()


def _versioned(item: Object, revision: int) -> Object:
    return {**item, "metadata": {**item["metadata"], "resourceVersion": str(revision)}}


def _event(kind: str, plural: str, item: Object) -> bytes:
    document = item | {"kind": _KINDS[plural], "apiVersion": _VERSIONS[plural]}
    return msgspec.json.encode({"type": kind, "object": document}) + b"\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ControlServer

    def setup(self) -> None:
        super().setup()
        if self.server.elsewhere:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # of this connection's thread
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT_AT_ONCE)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        plural = address.path.rpartition("/")[2]
        body = self.server.page(plural, int(query.get("continue", "0")))
        if body is None:
            self._answer(404, b'{"kind":"Status","apiVersion":"v1","status":"Failure","code":404}')
        elif query.get("sendInitialEvents") == "true":
            self._answer(200, self.server.stream(plural))
        elif query.get("watch") in {"true", "1"}:
            self._watch(plural)
        else:
            self._answer(200, body)

    def do_POST(self) -> None:
        """Events are accepted and forgotten."""
        self._answer(201, self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        """Nothing: a request a line would drown the figures."""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, plural: str) -> None:
        lines = self.server.subscribe(plural)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while (line := lines.get()) is not None:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the watcher has gone
            self.close_connection = True
