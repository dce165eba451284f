"""What tests of clients and credentials share: kubeconfigs, keys and certificates, one request."""

import ssl
from pathlib import Path
from typing import Any

import trustme
import yaml

from userproxy.cluster.client import ApiClient, open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.known_lines import KnownLines
from userproxy.cluster.listing import ANY_VERSION, Listing, fetch_streamed
from userproxy.cluster.objects.keys import ClusterObject
from userproxy.cluster.objects.reader import ObjectReader
from userproxy.cluster.objects.resources import services


def kubeconfig(folder: Path, server: str, user: dict[str, Any], **cluster: object) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [
            {"name": "one", "cluster": {"server": server, **cluster}},
            {"name": "two", "cluster": {"server": "http://192.0.2.1"}},
        ],
        "users": [{"name": "me", "user": user}],
        "contexts": [
            {"name": "here", "context": {"cluster": "one", "user": "me"}},
            {"name": "there", "context": {"cluster": "two", "user": "me"}},
        ],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


async def ask(client: ApiClient) -> None:
    async with client.get(services(None), "list", {"limit": "1"}, 30.0) as chunks:
        async for _ in chunks:
            pass


async def ask_once(**access: Any) -> None:
    client = await open_client(ApiAccess(**access))
    try:
        await ask(client)
    finally:
        await client.close()


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """For a server that takes nobody without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def write_pki(folder: Path, authority: trustme.CA) -> None:
    mine = authority.issue_cert("me@example.com")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    mine.cert_chain_pems[0].write_to_path(folder / "client.crt")
    mine.private_key_pem.write_to_path(folder / "client.key")


async def fetch_stream(
    url: str,
    idle_timeout: float = 30.0,
    reader: ObjectReader | None = None,
    known: KnownLines[ClusterObject] | None = None,
) -> Listing:
    resource = services(None)
    reader, known = reader or ObjectReader(resource), known or KnownLines()
    client = await open_client(ApiAccess(master=url))
    try:
        return await fetch_streamed(client, resource, reader, known, ANY_VERSION, idle_timeout)
    finally:
        await client.close()
