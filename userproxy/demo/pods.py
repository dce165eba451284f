"""What runs in a Pod: the program of :func:`command`.

Over TCP, a small HTTP server that answers every request with its Pod's name and the client address that it sees,
``{"pod": "web-1", "client": "10.244.1.1:40312"}``. It keeps connections alive as HTTP/1.1 clients expect.
Request bodies are not read.

Over UDP on the same port, a datagram that begins with ``?`` is answered with the same object, a newline, and the
datagram; any other comes back as it is.

Tests start thousands of these, so it imports next to nothing: 15 ms of CPU each, where asyncio would take 70.
"""

import select
import socket
import sys

_CHUNK = 1 << 16
_READ = select.EPOLLIN | select.EPOLLRDHUP


def command(name: str, port: int = 8080) -> list[str]:
    """The program as a command: it answers on a TCP and UDP port with the Pod's name, until it is killed."""
    return [sys.executable, "-I", "-S", __file__, name, str(port)]


class Client:
    """A connection: an answer for each blank line that ends a request's head."""

    def __init__(self, sock: socket.socket, answer: bytes) -> None:
        self._sock = sock
        self._answer = answer
        self._head = b""
        self._unsent = b""
        self._is_last = False

    @property
    def wanted(self) -> int:
        """What epoll(7) is to wait for; 0 once all is said and the connection is to be closed."""
        if self._unsent:
            return select.EPOLLOUT
        return 0 if self._is_last else _READ

    def go_on(self) -> None:
        """Read what has come, and write what can be written. Raises OSError where the client has gone."""
        if not self._unsent:
            self._read()
        if self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def _read(self) -> None:
        data = self._sock.recv(_CHUNK)
        self._is_last = not data
        *requests, self._head = (self._head + data).split(b"\r\n\r\n")
        for request in requests:
            self._unsent += self._answer
            if b"connection: close" in request.lower():
                self._is_last = True
                return

    def close(self) -> None:
        self._sock.close()


class Server:
    """Answers at both sockets, which do not block."""

    def __init__(self, pod: str, listener: socket.socket, datagrams: socket.socket) -> None:
        self._pod = pod
        self._listener = listener
        self._datagrams = datagrams
        self._poller = select.epoll()
        self._clients: dict[int, Client] = {}
        for sock in (listener, datagrams):
            self._poller.register(sock, select.EPOLLIN)

    def serve(self) -> None:
        """Answer until the process ends."""
        while True:
            for descriptor, _ in self._poller.poll():
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._datagrams.fileno():
                    answer_datagrams(self._pod, self._datagrams)
                else:
                    self._go_on(descriptor)

    def _accept(self) -> None:
        try:
            while True:
                sock, peer = self._listener.accept()
                sock.setblocking(False)  # noqa: FBT003 -- socket(2) has it so
                body = _introduction(self._pod, peer)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                self._clients[sock.fileno()] = Client(sock, head + body)
                self._poller.register(sock, _READ)
        except OSError:
            return  # nobody else waits, or there is no descriptor for who does

    def _go_on(self, descriptor: int) -> None:
        client = self._clients[descriptor]
        try:
            client.go_on()
            if client.wanted:
                self._poller.modify(descriptor, client.wanted)
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # it has gone
        del self._clients[descriptor]
        client.close()


def answer_datagrams(pod: str, sock: socket.socket) -> None:
    """Answer all that have come, empty ones too."""
    while True:
        try:
            data, client, *_ = sock.recvfrom(_CHUNK)
            sock.sendto(_introduction(pod, client) + data if data.startswith(b"?") else data, client)
        except BlockingIOError:
            return
        except OSError:
            continue  # an answer that cannot be sent concerns its client alone


def _introduction(pod: str, peer: tuple[str, int]) -> bytes:
    host, port = peer[:2]
    host = host.removeprefix("::ffff:")
    client = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f'{{"pod": "{pod}", "client": "{client}"}}\n'.encode()


def _bind(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket for both families where the kernel has both."""
    dual = socket.has_dualstack_ipv6()
    sock = socket.socket(socket.AF_INET6 if dual else socket.AF_INET, kind)
    if dual:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if kind is socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", port))
    sock.settimeout(0.0)
    return sock


def main(pod: str, port: int) -> None:
    """Answer on `port` of every address."""
    datagrams, listener = _bind(socket.SOCK_DGRAM, port), _bind(socket.SOCK_STREAM, port)
    server = Server(pod, listener, datagrams)
    listener.listen(1024)
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
