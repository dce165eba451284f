"""A fake API server that speaks real HTTP(S): lists, watches, changes, and every way to fail.

::

    with FakeApiServer(tls=True) as server:
        server.put(service("web", cluster_ip="10.96.0.10"))
        config = server.kubeconfig(tmp_path / "kubeconfig")
        ...
        server.cut_streams(at="utf8")

In a lab host it runs as a program: ``HostedApiServer(host, directory)``, with the same methods.
"""

from tests.lab.apiserver.builders import endpointslice, node, service
from tests.lab.apiserver.hosted import HostedApiServer
from tests.lab.apiserver.interface import ApiServer
from tests.lab.apiserver.real import RealApiServer, real_binaries
from tests.lab.apiserver.server import FakeApiServer

__all__ = [
    "ApiServer",
    "FakeApiServer",
    "HostedApiServer",
    "RealApiServer",
    "endpointslice",
    "node",
    "real_binaries",
    "service",
]
