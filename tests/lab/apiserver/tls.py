"""A private CA, the server's certificate and a client's, as files."""

import ssl
from collections.abc import Sequence
from pathlib import Path

import trustme
from msgspec import Struct


class Certificates(Struct, frozen=True):
    """Paths of PEM files; key and certificate of the server are one file."""

    ca: Path
    server: Path
    client: Path
    client_key: Path

    def context(self) -> ssl.SSLContext:
        """For the server: certificates of clients are welcome, not required."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(self.server)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


def certificates(directory: Path, names: Sequence[str] = ("127.0.0.1", "localhost")) -> Certificates:
    """Those in `directory`, made where there are none yet: a restarted server keeps its CA."""
    files = Certificates(*(directory / name for name in ("ca.crt", "server.pem", "client.crt", "client.key")))
    if files.server.exists():
        return files
    directory.mkdir(parents=True, exist_ok=True)
    ca = trustme.CA(organization_name="lab")
    ca.cert_pem.write_to_path(str(files.ca))
    ca.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(files.server))
    client = ca.issue_cert("kube-proxy.lab", common_name="system:kube-proxy", organization_name="system:nodes")
    client.cert_chain_pems[0].write_to_path(str(files.client))
    client.private_key_pem.write_to_path(str(files.client_key))
    return files
