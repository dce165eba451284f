"""Who we are to the API server and whom we trust: a kubeconfig, a Pod's service account, or ``--master`` alone."""

import asyncio
import importlib
import logging
import os
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from msgspec import Struct
from multidict import CIMultiDict

from userproxy.cluster.kubeconfig import read_kubeconfig
from userproxy.cluster.redaction import shown_path, without_keys, without_password
from userproxy.errors import UsageError

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXEC_LIMIT = 60.0
"""How long a plugin of a kubeconfig may take. Seconds."""
_READ_AGAIN = 60.0
"""A token's file is read again after so many seconds: kubelet replaces it long before the token expires."""


class ApiAccess(Struct, frozen=True, kw_only=True):
    """Where the API server is, as flags say it.

    Without `kubeconfig` the Pod's service account is used. `master` replaces the server's URL; outside of a Pod and
    without a kubeconfig, it is used without credentials. The environment variable ``KUBECONFIG`` is not read, nor does
    kube-proxy read it: which cluster a node follows must not depend on whose shell has started the proxy.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    master: str | None = None
    service_account: Path = _SERVICE_ACCOUNT


class Credentials(Struct, frozen=True):
    """A Configuration of kubernetes_asyncio, and headers for each request that the library does not know of."""

    configuration: Any
    headers: tuple[tuple[str, str], ...] = ()


async def load(access: ApiAccess) -> Credentials:
    """The credentials that `access` leads to. Raises UsageError with one sentence that holds no credentials."""
    import_client()  # not at the top of the module: a start with manifests does not need it
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config.config_exception import ConfigException

    # What the library logs it also raises, and we log that once, without what a plugin has printed.
    library = logging.getLogger("kubernetes_asyncio")
    library.propagate = False
    if not library.handlers:
        library.addHandler(logging.NullHandler())
    configuration = Configuration()
    # Certificates of clusters' own CAs often lack extensions that Python 3.13 insists on and Go does not.
    configuration.disable_strict_ssl_verification = True
    try:
        if access.kubeconfig is not None:
            headers = await _load_kubeconfig(access.kubeconfig, access, configuration)
            return Credentials(configuration, headers)
        _load_service_account(access, configuration)
    except ConfigException as error:  # its text may hold what a plugin has printed
        where = access.kubeconfig or "In-cluster configuration"
        raise UsageError(f"{where}: {without_keys(str(error))}") from None
    return Credentials(configuration)


async def _load_kubeconfig(path: Path, access: ApiAccess, configuration: Any) -> tuple[tuple[str, str], ...]:
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader

    checked = await asyncio.to_thread(read_kubeconfig, path, access.context, access.master)
    loader = KubeConfigLoader(
        checked.document, active_context=checked.context, config_base_path=str(path.parent.absolute())
    )
    try:
        async with asyncio.timeout(_EXEC_LIMIT):
            await loader.load_and_set(configuration)
    except TimeoutError:
        raise UsageError(f"{path}: user.exec: no answer within {_EXEC_LIMIT:.0f} s") from None
    except OSError as error:
        what = (
            f"user.exec.command: {shown_path(checked.plugin)}"
            if checked.plugin
            else f"user of context {checked.context}"
        )
        raise UsageError(f"{path}: {what}: {(error.strerror or 'not readable').lower()}") from None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # The fields have been checked. What fails now is what a plugin or an auth-provider answers: credentials.
        what = "user.exec: what the plugin answers" if checked.plugin else f"user of context {checked.context}: it"
        raise UsageError(f"{path}: {what} cannot be used ({type(error).__name__})") from None
    if checked.token_file is not None:
        configuration.refresh_api_key_hook = _token_reader(checked.token_file)
    return checked.impersonation


def _load_service_account(access: ApiAccess, configuration: Any) -> None:
    from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader

    token, authority = access.service_account / "token", access.service_account / "ca.crt"
    in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and token.exists()
    if in_pod:
        InClusterConfigLoader(str(token), str(authority), try_refresh_token=False).load_and_set(configuration)
        configuration.refresh_api_key_hook = _token_reader(token)
    elif access.master is None:
        raise UsageError("No API server is known: give --kubeconfig or --master, or run in a Pod")
    if access.master is not None:
        if not access.master.startswith(("http://", "https://")):
            raise UsageError(
                f'--master: "{without_password(access.master)}" is not a URL such as https://10.0.0.1:6443'
            )
        configuration.host = access.master.rstrip("/")


def _token_reader(path: Path) -> Callable[[Any], None]:
    """A hook for the library to call before it uses the token. While the file cannot be read the old token stays."""
    read_at = time.monotonic()

    def read_again(configuration: Any) -> None:
        nonlocal read_at
        if time.monotonic() - read_at < _READ_AGAIN:
            return
        read_at = time.monotonic()
        try:
            token = path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return
        if token:
            configuration.api_key["BearerToken"] = f"Bearer {token}"

    return read_again


async def authorization(credentials: Credentials) -> CIMultiDict[str]:
    """The headers of a request: impersonation, and the token where the credentials have one."""
    headers = CIMultiDict(credentials.headers)
    token = await credentials.configuration.get_api_key_with_prefix("BearerToken")
    if token:
        # The library keeps the line feed at the end of a token file, which no header may have.
        headers["Authorization"] = token.strip()
    return headers


def files_of(access: ApiAccess, credentials: Credentials) -> tuple[Path, ...]:
    """The files that credentials were loaded from, except those of tokens, which are read again by themselves."""
    configuration = credentials.configuration
    certificates = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    names = (access.kubeconfig, *certificates)
    return tuple(Path(name) for name in names if name is not None)


def digest_of(files: Iterable[Path]) -> bytes | None:
    """A digest of what all these files hold, to be compared; None while one of them cannot be read. Blocks."""
    digest = sha256()
    try:
        for file in files:
            digest.update(sha256(file.read_bytes()).digest())
    except OSError:
        return None
    return digest.digest()


def transport_fingerprint(configuration: Any) -> bytes:
    """A value that is equal for two configurations with the same server, certificates and checks of certificates.

    Such configurations can share connections.

    Raises UsageError where a file of certificates cannot be read.
    """
    parts = [
        configuration.host,
        configuration.verify_ssl,
        configuration.tls_server_name,
        configuration.proxy,
        *(_digest(name) for name in (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)),
    ]
    return repr(parts).encode()


def _digest(name: str | None) -> bytes | None:
    try:
        return sha256(Path(name).read_bytes()).digest() if name else None
    except OSError as error:
        raise UsageError(f"{name}: {(error.strerror or str(error)).lower()}") from error


def check_certificates(configuration: Any, access: ApiAccess) -> None:
    """Raises UsageError naming the certificate that cannot be used."""
    where = access.kubeconfig or access.service_account
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(f"{where}: certificate-authority: not a certificate in PEM ({error})") from error
    if not configuration.cert_file:
        return
    try:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"{where}: client-certificate: not a certificate and its key, client-key, in PEM ({error})"
        ) from error


_CLIENT: Final = "kubernetes_asyncio.client"
_PACKAGES: Final = (f"{_CLIENT}.api", f"{_CLIENT}.models")


def import_client() -> None:
    """Import kubernetes_asyncio's client without its models and API classes, which are replaced by empty ones.

    Importing any part of the client imports 900 generated modules: 36 MB and a third of a second of CPU, on every node,
    for classes that are never used here. Where the client has been imported already nothing happens. The generated
    modules can still be imported by their own names afterwards.
    """
    if _CLIENT not in sys.modules:
        with _without_generated_modules():
            importlib.import_module(_CLIENT)


@contextmanager
def _without_generated_modules() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.found:
            sys.modules.pop(name, None)


class _Finder(MetaPathFinder, Loader):
    """Finds every module of the generated packages, empty, with a placeholder for every class."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 -- the import system's signature
        target: ModuleType | None = None,  # noqa: ARG002 -- as above
    ) -> ModuleSpec | None:
        if not any(fullname == package or fullname.startswith(f"{package}.") for package in _PACKAGES):
            return None
        self.found.append(fullname)
        return ModuleSpec(fullname, self, is_package=fullname in _PACKAGES)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002 -- as above
        return None

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__getattr__"] = _placeholder


class _Placeholder:
    """Stands for every class that is left out."""


def _placeholder(name: str) -> type[_Placeholder]:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Placeholder
