"""The proxies under measurement: how each is found, configured and started."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from examples.benchmarks.toolchain import build, find_program

NGINX_STREAM_MODULES = (
    Path("/usr/lib/nginx/modules/ngx_stream_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_stream_module.so"),
)


class Way(Struct, frozen=True):
    """Where a proxy is to lead: from ``127.0.0.1:listen`` to the backends, which all serve on one port."""

    listen: int
    backends: tuple[str, ...]
    backend_port: int

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"{address}:{self.backend_port}" for address in self.backends)


class Peer(Struct, frozen=True):
    """One proxy. `command` writes its configuration into a directory and returns what to run there.

    `find` returns its program, or None where it is not installed; `missing` then is the sentence to print.
    """

    name: str
    title: str
    find: Callable[[], str | None]
    missing: str
    version: Callable[[str], str]
    command: Callable[[str, Path, Way], Sequence[str]]


def peers() -> dict[str, Peer]:
    """All proxies that we can measure, by name."""
    known = (_userproxy(), _haproxy(), _nginx(), _go())
    return {peer.name: peer for peer in known}


def _first_line(*command: str) -> str:
    """What a program says of its version, on whichever stream it says it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "version unknown"


def _userproxy() -> Peer:
    return Peer(
        name="userproxy",
        title="userproxy, one worker",
        find=lambda: find_program("userproxy"),
        missing="userproxy is not installed (pip install .), so it is left out.",
        version=lambda program: _first_line(program, "--version"),
        command=userproxy_command,
    )


def userproxy_command(program: str, directory: Path, way: Way) -> Sequence[str]:
    """One Service with one slice of all backends; without portals its listener is at ``127.0.0.1:listen``."""
    (directory / "bench.yaml").write_text(_manifests(way))
    port_range = f"{way.listen}-{way.listen}"
    return (
        *(program, "run", "--manifests", str(directory), "--portals", "none"),
        *("--proxy-port-range", port_range),
    )


def _manifests(way: Way) -> str:
    addresses = "".join(f"- addresses: [{address}]\n" for address in way.backends)
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: bench, namespace: default}}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{{port: 80, targetPort: {way.backend_port}, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: bench-1
  namespace: default
  labels: {{kubernetes.io/service-name: bench}}
addressType: IPv4
ports: [{{name: "", port: {way.backend_port}, protocol: TCP}}]
endpoints:
{addresses}"""


def _haproxy() -> Peer:
    return Peer(
        name="haproxy",
        title="HAProxy, mode tcp, nbthread 1",
        find=lambda: find_program("haproxy"),
        missing="HAProxy is not installed (Debian package haproxy), so it is left out.",
        version=lambda program: _first_line(program, "-v"),
        command=haproxy_command,
    )


def haproxy_command(program: str, directory: Path, way: Way) -> Sequence[str]:
    """HAProxy in the foreground with one listener, without health checks, in its default of copying."""
    servers = "".join(f"  server s{n} {endpoint}\n" for n, endpoint in enumerate(way.endpoints))
    config = directory / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 4096\n"
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n"
        f"listen bench\n  bind 127.0.0.1:{way.listen}\n  balance roundrobin\n{servers}"
    )
    return (program, "-db", "-f", str(config))


def _nginx() -> Peer:
    return Peer(
        name="nginx",
        title="nginx stream, 1 worker process",
        find=_find_nginx,
        missing="nginx or its stream module is not installed (Debian packages nginx-light and"
        " libnginx-mod-stream), so it is left out.",
        version=lambda program: _first_line(program, "-v"),
        command=nginx_command,
    )


def _find_nginx() -> str | None:
    return find_program("nginx") if _nginx_module() else None


def _nginx_module() -> Path | None:
    return next((path for path in NGINX_STREAM_MODULES if path.exists()), None)


def nginx_command(program: str, directory: Path, way: Way) -> Sequence[str]:
    """nginx in the foreground: a master that sleeps and one worker. Failures never take a server out."""
    servers = "".join(f"    server {endpoint} max_fails=0;\n" for endpoint in way.endpoints)
    config = directory / "nginx.conf"
    config.write_text(
        f"load_module {_nginx_module()};\nworker_processes 1;\ndaemon off;\n"
        f"pid {directory}/nginx.pid;\nerror_log stderr warn;\n"
        "events {\n  worker_connections 4096;\n}\nstream {\n"
        f"  upstream bench {{\n{servers}  }}\n"
        f"  server {{\n    listen 127.0.0.1:{way.listen} backlog=4096;\n    proxy_pass bench;\n"
        "    proxy_connect_timeout 5s;\n    proxy_timeout 5m;\n  }\n}\n"
    )
    return (program, "-e", "stderr", "-p", str(directory), "-c", str(config))


def _go() -> Peer:
    return Peer(
        name="go",
        title="Go accept/dial/io.Copy, default GOMAXPROCS (one per CPU)",
        find=lambda: str(build("goproxy")),
        missing="The Go proxy is not built, so it is left out.",
        version=lambda _: _first_line(find_program("go") or "go", "version"),
        command=go_command,
    )


def go_command(program: str, _directory: Path, way: Way) -> Sequence[str]:
    """Our own Go proxy, with kube-proxy 1.25's structure."""
    return (program, "-listen", f"127.0.0.1:{way.listen}", "-backends", ",".join(way.endpoints))
