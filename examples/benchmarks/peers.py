"""The proxies under measurement: how each is found, configured and started."""

import subprocess
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path

from msgspec import Struct

from examples.benchmarks.toolchain import build, find_program

NGINX_STREAM_MODULES = (
    Path("/usr/lib/nginx/modules/ngx_stream_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_stream_module.so"),
)


USUAL = ("userproxy", "haproxy", "nginx", "go")
"""The proxies that are measured unless others are named."""

UDP_TIMEOUT = "10s"
"""How long each proxy keeps a silent UDP flow: longer than any pause of the load."""


class Network(StrEnum):
    """What the load travels in, as the programs' flags call it."""

    TCP = "tcp"
    UDP = "udp"


class Way(Struct, frozen=True):
    """Where a proxy is to lead: from ``127.0.0.1:listen`` to the backends, which all serve on one port."""

    listen: int
    backends: tuple[str, ...]
    backend_port: int
    network: Network = Network.TCP

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"{address}:{self.backend_port}" for address in self.backends)


class Peer(Struct, frozen=True):
    """One proxy. `command` writes its configuration into a directory and returns what to run there.

    `version` is a command that tells the version, its program by name; `source` is where to get the proxy.
    `find` returns the path of its program, or None where it is not installed; by default that of `version`.
    """

    name: str
    title: str
    version: tuple[str, ...]
    source: str
    command: Callable[[str, Path, Way], Sequence[str]]
    networks: tuple[Network, ...] = tuple(Network)
    find: Callable[[], str | None] | None = None

    def program(self) -> str | None:
        """The path of its program, or None where it is not installed."""
        return self.find() if self.find is not None else find_program(self.version[0])

    def version_text(self) -> str:
        """What it says of its version, on whichever stream it says it."""
        name, *arguments = self.version
        done = subprocess.run([find_program(name) or name, *arguments], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0] if lines else "version unknown"


def peers() -> dict[str, Peer]:
    """All proxies that we can measure, by name."""
    known = (
        _userproxy("userproxy", "userproxy, one process", workers=0),
        _userproxy("userproxy-1", "userproxy, one data process", workers=1),
        _userproxy("userproxy-2", "userproxy, two data processes", workers=2),
        _haproxy("haproxy", threads=1),
        _haproxy("haproxy-2", threads=2),
        Peer(
            "nginx",
            "nginx stream, 1 worker process",
            ("nginx", "-v"),
            "Debian packages nginx-light and libnginx-mod-stream",
            nginx_command,
            find=lambda: find_program("nginx") if _nginx_module() else None,
        ),
        Peer(
            "go",
            "Go with kube-proxy's structure, default GOMAXPROCS (one per CPU)",
            ("go", "version"),
            "pip install '.[bench]'",
            go_command,
            find=lambda: str(build("goproxy")),
        ),
    )
    return {peer.name: peer for peer in known}


def _userproxy(name: str, title: str, *, workers: int) -> Peer:
    command = partial(userproxy_command, workers=workers)
    return Peer(name, title, ("userproxy", "--version"), "pip install .", command)


def userproxy_command(program: str, directory: Path, way: Way, workers: int = 0) -> Sequence[str]:
    """One Service with one slice of all backends; without portals its listener is at ``127.0.0.1:listen``."""
    (directory / "bench.yaml").write_text(_manifests(way))
    port_range = f"{way.listen}-{way.listen}"
    return (
        *(program, "run", "--manifests", str(directory), "--portals", "none"),
        *("--proxy-port-range", port_range, "--udp-timeout", UDP_TIMEOUT),
        *(("--workers", str(workers)) if workers else ()),
    )


def _manifests(way: Way) -> str:
    addresses = "".join(f"- addresses: [{address}]\n" for address in way.backends)
    protocol = way.network.upper()
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: bench, namespace: default}}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{{port: 80, targetPort: {way.backend_port}, protocol: {protocol}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: bench-1
  namespace: default
  labels: {{kubernetes.io/service-name: bench}}
addressType: IPv4
ports: [{{name: "", port: {way.backend_port}, protocol: {protocol}}}]
endpoints:
{addresses}"""


def _haproxy(name: str, *, threads: int) -> Peer:
    command = partial(haproxy_command, threads=threads)
    title, source = f"HAProxy, mode tcp, nbthread {threads}", "Debian package haproxy"
    return Peer(name, title, ("haproxy", "-v"), source, command, networks=(Network.TCP,))


def haproxy_command(program: str, directory: Path, way: Way, threads: int = 1) -> Sequence[str]:
    """HAProxy in the foreground with one listener, without health checks, in its default of copying."""
    servers = "".join(f"  server s{n} {endpoint}\n" for n, endpoint in enumerate(way.endpoints))
    config = directory / "haproxy.cfg"
    config.write_text(
        f"global\n  nbthread {threads}\n  maxconn 9500\n"
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n"
        f"listen bench\n  bind 127.0.0.1:{way.listen}\n  balance roundrobin\n{servers}"
    )
    return (program, "-db", "-f", str(config))


def _nginx_module() -> Path | None:
    return next((path for path in NGINX_STREAM_MODULES if path.exists()), None)


def nginx_command(program: str, directory: Path, way: Way) -> Sequence[str]:
    """nginx in the foreground: a master that sleeps and one worker. Failures never take a server out.

    UDP: without ``proxy_responses`` and ``proxy_requests`` a client keeps its session until it is silent, as in the
    other proxies; with ``proxy_responses 1`` each round trip would pay for a session of its own. With
    ``multi_accept`` nginx reads every datagram that waits instead of one a wake-up, and needs a tenth less.
    """
    servers = "".join(f"    server {endpoint} max_fails=0;\n" for endpoint in way.endpoints)
    udp = way.network is Network.UDP
    accept, how, timeout = ("on", "udp", UDP_TIMEOUT) if udp else ("off", "backlog=4096", "5m")
    config = directory / "nginx.conf"
    config.write_text(
        f"load_module {_nginx_module()};\nworker_processes 1;\ndaemon off;\n"
        f"pid {directory}/nginx.pid;\nerror_log stderr warn;\n"
        f"events {{\n  worker_connections 19500;\n  multi_accept {accept};\n}}\nstream {{\n"
        f"  upstream bench {{\n{servers}  }}\n"
        f"  server {{\n    listen 127.0.0.1:{way.listen} {how};\n    proxy_pass bench;\n"
        f"    proxy_connect_timeout 5s;\n    proxy_timeout {timeout};\n  }}\n}}\n"
    )
    return (program, "-e", "stderr", "-p", str(directory), "-c", str(config))


def go_command(program: str, _directory: Path, way: Way) -> Sequence[str]:
    """Our own Go proxy, with kube-proxy 1.25's structure."""
    listen = ("-network", way.network, "-listen", f"127.0.0.1:{way.listen}")
    return (program, *listen, "-backends", ",".join(way.endpoints), "-udp-timeout", UDP_TIMEOUT)
