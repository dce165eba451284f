"""Who we are to the API server and how its certificate is checked, by kubernetes_asyncio's own loaders."""

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
_READ_AGAIN = 60.0
"""A token in a file is read again after so many seconds; kubelet renews it long before it expires."""


class ApiAccess(Struct, frozen=True, kw_only=True):
    """Where the API server is, as flags say it.

    Without `kubeconfig` the Pod's service account is used; `master` overrides the server's URL, and alone, outside
    of a Pod, it is used without credentials. The environment variable ``KUBECONFIG`` is not read, as kube-proxy does
    not read it: what a node's proxy follows must not depend on whose shell has started it.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    master: str | None = None
    service_account: Path = _SERVICE_ACCOUNT


class Credentials(Struct, frozen=True):
    """A Configuration of kubernetes_asyncio, and what the library leaves out: headers that go with each request."""

    configuration: Any
    headers: tuple[tuple[str, str], ...] = ()


async def load(access: ApiAccess) -> Credentials:
    """Who we are and whom we trust. Raises UsageError with one sentence, which never holds what was read."""
    import_client()  # only now: who serves manifests need not pay for it
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config.config_exception import ConfigException

    # What the library logs it also raises, and then it is said once and by us, without what a plugin has printed.
    library = logging.getLogger("kubernetes_asyncio")
    library.propagate = False
    if not library.handlers:
        library.addHandler(logging.NullHandler())
    configuration = Configuration()
    # Clusters' own CAs often lack what X.509 wants by the letter, Go does not ask for it, and Python 3.13 does.
    configuration.disable_strict_ssl_verification = True
    try:
        if access.kubeconfig is not None:
            headers = await _load_kubeconfig(access.kubeconfig, access, configuration)
            return Credentials(configuration, headers)
        _load_service_account(access, configuration)
    except ConfigException as error:  # it may hold what a plugin has printed
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
        # Fields are checked, so what is left to fail is what a plugin or an auth-provider answers: credentials.
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
    """A hook that the library calls before it uses the token. A file that is gone for a moment changes nothing."""
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
    """The headers that say who we are, and whom we ask to be taken for; without the former for one who says it by
    certificate, or not at all.
    """
    headers = CIMultiDict(credentials.headers)
    token = await credentials.configuration.get_api_key_with_prefix("BearerToken")
    if token:
        # The library keeps the line feed at the end of a token file, which no header may have.
        headers["Authorization"] = token.strip()
    return headers


def files_of(access: ApiAccess, credentials: Credentials) -> tuple[Path, ...]:
    """The files that say who we are and whom we trust, without those of tokens, which are read anew by themselves."""
    configuration = credentials.configuration
    certificates = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    names = (access.kubeconfig, *certificates)
    return tuple(Path(name) for name in names if name is not None)


def contents(files: Iterable[Path]) -> bytes | None:
    """The same as long as no content of these files has changed; None while one of them cannot be read. Blocks."""
    digest = sha256()
    try:
        for file in files:
            digest.update(sha256(file.read_bytes()).digest())
    except OSError:
        return None
    return digest.digest()


def transport_fingerprint(configuration: Any) -> bytes:
    """The same for two configurations that can share connections: same server, certificates and checks.

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
    """Raises UsageError that names the certificates which cannot be used."""
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
    """Import the library's client without its models and API classes, in whose place it gets empty ones.

    Nothing happens where the client has been imported already. The models and API modules can still be imported for
    themselves afterwards.
    """
    if _CLIENT not in sys.modules:
        with _left_out():
            importlib.import_module(_CLIENT)


@contextmanager
def _left_out() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.found:
            sys.modules.pop(name, None)


class _Finder(MetaPathFinder, Loader):
    """Finds every module of the packages, and each has every class that is asked for."""

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


class _LeftOut:
    """In place of every class that is left out."""


def _placeholder(name: str) -> type[_LeftOut]:
    if name.startswith("__"):
        raise AttributeError(name)
    return _LeftOut
