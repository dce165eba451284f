"""HAProxy and nginx as hosts' programs that speak the PROXY protocol, in either direction."""

import re
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from userproxy.addresses import host_and_port
from userproxy.demo.hosts import Address, Host
from userproxy.demo.programs import Program
from userproxy.demo.waiting import eventually

STREAM_MODULES: Final = (
    Path("/usr/lib/nginx/modules/ngx_stream_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_stream_module.so"),
)

_HAPROXY: Final = """
global
    maxconn 200
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
"""

_NGINX: Final = """
# One process, which ends with its host: a worker would outlive its master and keep the output open.
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {}
"""

_REQUEST: Final = b"GET / HTTP/1.0\r\n\r\n"


class Told(NamedTuple):
    """Whom a backend takes for its client, and what for the address that was dialled."""

    client: Address
    portal: Address


def haproxy_backend(host: Host, directory: Path, port: int = 8080) -> Program:
    """HAProxy with ``accept-proxy``, which answers with what :func:`told` reads."""
    return _haproxy(
        host,
        directory,
        f"""
        frontend web
            mode http
            bind 0.0.0.0:{port} accept-proxy
            bind [::]:{port} v6only accept-proxy
            http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port]"
        """,
    )


def nginx_backend(host: Host, directory: Path, port: int = 8080) -> Program:
    """nginx with ``listen ... proxy_protocol``, which answers with what :func:`told` reads."""
    said = " ".join(f"$proxy_protocol_{each}" for each in ("addr", "port", "server_addr", "server_port"))
    temporary = " ".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return _nginx(
        host,
        directory,
        f"""
        http {{
            access_log off;
            {temporary}
            server {{
                listen {port} proxy_protocol;
                listen [::]:{port} proxy_protocol;
                location / {{ default_type text/plain; return 200 "{said}"; }}
            }}
        }}
        """,
    )


def haproxy_sender(host: Host, directory: Path, port: int, target: Address, options: str) -> Program:
    """HAProxy that passes TCP on to `target`; `options` are those of its ``server`` line."""
    return _haproxy(
        host,
        directory,
        f"""
        listen lb{port}
            mode tcp
            bind 0.0.0.0:{port}
            bind [::]:{port} v6only
            server target {host_and_port(*target)} {options}
        """,
    )


def nginx_sender(host: Host, directory: Path, port: int, target: Address) -> Program:
    """nginx that passes TCP on to `target` with ``proxy_protocol on``."""
    return _nginx(
        host,
        directory,
        f"""
        stream {{
            server {{
                listen {port};
                listen [::]:{port};
                proxy_pass {host_and_port(*target)};
                proxy_protocol on;
            }}
        }}
        """,
        _stream_module(),
    )


def in_both_families(program: Program, port: int) -> Program:
    """The program, once it listens on the port for IPv4 and for IPv6: it opens one after the other."""
    program.wait_port(port)
    wanted = ["ss", "--no-header", "--listening", "--tcp", "--numeric", f"sport = :{port}"]
    eventually(lambda: len(program.host.run(wanted).stdout.splitlines()) > 1, 30, f"port {port} in both families")
    return program


def told(client: Host, address: Address, *, before: bytes = b"", source: Address | None = None) -> tuple[Told, Address]:
    """What the backend behind `address` says of a client, and that client's own address. `before` is sent first."""
    with closing(client.connect(address, source=source)) as sock:
        own: Address = sock.getsockname()[:2]
        sock.sendall(before + _REQUEST)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert re.match(r"HTTP/1\.[01] 200 ", head), answer
    client_ip, client_port, portal_ip, portal_port = body.split()
    return Told((client_ip, int(client_port)), (portal_ip, int(portal_port))), own


def _haproxy(host: Host, directory: Path, config: str) -> Program:
    file = _write(directory, "haproxy.cfg", _HAPROXY + config)
    return Program(host, ["haproxy", "-db", "-f", str(file)])


def _nginx(host: Host, directory: Path, config: str, modules: Iterable[Path] = ()) -> Program:
    loaded = "".join(f"load_module {module};\n" for module in modules)
    file = _write(directory, "nginx.conf", loaded + _NGINX + config)
    return Program(host, ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(file)])


def _stream_module() -> tuple[Path, ...]:
    found = tuple(module for module in STREAM_MODULES if module.exists())[:1]
    if not found:
        pytest.fail("nginx has no stream module: apt install libnginx-mod-stream")
    return found


def _write(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / name
    file.write_text(f"{text}\n")
    return file
