"""Hosts out of network namespaces: anonymous, cheap (a few milliseconds), and gone with the process.

Root of some user namespace is needed: the machine's own, or one made by ``unshare --user``.
"""

import socket as sockets
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from userproxy.addresses import socket_family
from userproxy.demo.closing import Closing
from userproxy.demo.listening import Transport, listening_ports
from userproxy.demo.namespaces import enter_new_namespaces
from userproxy.demo.tools import require_tool, tool_environment
from userproxy.errors import KernelToolError, UserproxyError

P = ParamSpec("P")
T = TypeVar("T")
Completed = subprocess.CompletedProcess[str]
Address = tuple[str, int]


class CommandFailedError(UserproxyError):
    """A command run in a host failed or took too long; the text has the command and what it complained of."""


class Host(Closing):
    """A network and mount namespace with a name, ``lo`` up and a private ``/run``.

    A thread of this process lives in the namespaces and holds them; commands and sockets are started
    from it. So there is no holder process and no file that could be left behind: when the host is closed,
    or this process dies however it dies, the namespaces go, and the kernel kills the commands with them,
    but for brief ones. Use as a context manager.

    ``name`` is for people. ``address`` and ``address6`` are the host's main addresses of the two families, empty
    until a network gives them. Raises KernelToolError where the kernel refuses the namespaces.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self.address6 = ""
        self._children: list[subprocess.Popen[str]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"host-{name}")
        try:
            self.inside(enter_new_namespaces)
            self.ip_batch(["link set lo up"])
        except OSError as error:
            self.close()
            raise KernelToolError(f"host {name}: the kernel refuses a namespace: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def inside(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns when called in the host's network and mount namespace.

        Calls take turns, so it should be short. It sees the namespaces only through the calling thread:
        ``/proc/thread-self/net``, not ``/proc/net``.
        """
        return self._thread.submit(function, *args, **kwargs).result()

    @property
    def pid(self) -> int:
        """What ``nsenter -t`` and ``ip link ... netns`` take to mean this host."""
        return self.inside(threading.get_native_id)

    def path(self, inside: str) -> Path:
        """Where this process finds the host's file `inside`, an absolute path; /run differs between hosts."""
        return Path(f"/proc/{self.pid}/root") / inside.removeprefix("/")

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        brief: bool = False,
    ) -> subprocess.Popen[str]:
        """Start a command in the host, with this process' working directory; text streams as given.

        It is killed when the host is closed or this process dies; one that is `brief` only when the host is closed,
        which saves a program that asks the kernel for it, a millisecond. `env` is added to the environment. Raises
        ToolMissingError where the program is not installed.
        """
        cwd = Path.cwd()  # the host's thread has left this process' working directory for one of its own
        environment = {**tool_environment(), **(env or {})}
        # The signal comes when the *thread* that started the child ends: this host's own.
        mortal = [] if brief else ["setpriv", "--pdeathsig", "KILL"]

        def start() -> subprocess.Popen[str]:
            require_tool(argv[0], environment["PATH"])
            child = subprocess.Popen(
                [*mortal, *argv],
                cwd=cwd,
                env=environment,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                text=True,
            )
            self._children = [child, *(other for other in self._children if other.poll() is None)]
            return child

        return self.inside(start)

    def run(
        self, argv: Sequence[str], *, text: str = "", check: bool = True, timeout: float = 30.0, brief: bool = False
    ) -> Completed:
        """Run a command in the host to its end, `text` on its standard input; output is captured.

        `brief` is for those that end within milliseconds whatever happens (see :meth:`popen`). Raises
        CommandFailedError after `timeout` seconds, and with `check` for an exit code other than 0.
        """
        pipe = subprocess.PIPE
        with self.popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, brief=brief) as child:
            try:
                out, complaint = child.communicate(text, timeout)
            except subprocess.TimeoutExpired as error:
                child.kill()
                command = " ".join(argv)
                raise CommandFailedError(f"{self.name}: {command}: no end within {timeout:g} s") from error
            except BaseException:
                child.kill()
                raise
        if check and child.returncode:
            reason = complaint.strip() or f"exit code {child.returncode}"
            raise CommandFailedError(f"{self.name}: {' '.join(argv)}: {reason}")
        return Completed(list(argv), child.returncode, out, complaint)

    def ip_batch(self, lines: Iterable[str]) -> None:
        """Run ``ip`` commands, one a line without the word ``ip``, in one process."""
        self.run(["ip", "-batch", "-"], text="".join(f"{line}\n" for line in lines), brief=True)

    def sysctl(self, name: str, value: str | int) -> None:
        """Set a ``net.*`` sysctl of the host, named with dots. Raises OSError."""
        self.inside(Path("/proc/sys", *name.split(".")).write_text, str(value))

    @property
    def has_ipv6(self) -> bool:
        """Whether the kernel speaks IPv6 and the host has not switched it off (net.ipv6.conf.all.disable_ipv6)."""
        try:
            return self.inside(Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text).strip() == "0"
        except FileNotFoundError:
            return False

    def socket(
        self, family: int = sockets.AF_INET, kind: int = sockets.SOCK_STREAM, protocol: int = 0
    ) -> sockets.socket:
        """A socket of the host for use anywhere in this process: it stays where it was made."""
        return self.inside(sockets.socket, family, kind, protocol)

    def connect(self, address: Address, timeout: float = 15.0, *, source: Address | None = None) -> sockets.socket:
        """A TCP connection from the host, if need be from `source`. `timeout` seconds hold for later calls too."""
        return self._connect(sockets.SOCK_STREAM, address, timeout, source)

    def udp_socket(
        self, address: Address | None = None, timeout: float = 15.0, *, source: Address | None = None
    ) -> sockets.socket:
        """A UDP socket of the host, bound to `source` where given and connected to `address` where given.

        Connected, it takes replies from that address alone, and raises ConnectionRefusedError once the other side
        has said that nobody is there. `timeout` seconds hold for every call.
        """
        return self._connect(sockets.SOCK_DGRAM, address, timeout, source)

    def _connect(self, kind: int, address: Address | None, timeout: float, source: Address | None) -> sockets.socket:
        sock = self.socket(socket_family((address or source or ("",))[0]), kind)
        try:
            sock.settimeout(timeout)
            if source:
                sock.bind(source)
            if address:
                sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, port: int = 0, address: str = "0.0.0.0", backlog: int = 1024) -> sockets.socket:
        """A TCP socket that listens in the host on an address of either family, ``::`` being all of IPv6 alone.

        Port 0 lets the kernel choose.
        """
        family = socket_family(address)
        sock = self.socket(family)
        try:
            sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
            if family == sockets.AF_INET6:
                sock.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def listening_ports(self, transport: Transport = "tcp") -> set[int]:
        """Ports at which something in the host waits for anybody, at any address."""
        return self.inside(listening_ports, transport)

    def close(self) -> None:
        """Kill what still runs in the host and let the namespaces go. May be called twice."""
        while self._children:
            with self._children.pop() as child:
                child.kill()
        self._thread.shutdown()
