"""A kubeconfig file is read and checked, so that one sentence says what is wrong with it.

kubernetes_asyncio reads the file, too; its own errors name neither the file nor, at times, the field.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from userproxy.cluster.redaction import shown_path, without_keys, without_password
from userproxy.errors import UsageError
from userproxy.yaml_reader import MalformedTextError, parse_one


class _Cluster(Struct, rename="kebab"):
    server: str | None = None
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool | None = None
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _Exec(Struct, rename="camel"):
    command: str
    api_version: str
    args: list[str] | None = None


class _User(Struct, rename="kebab"):
    token: str | None = None
    token_file: str | None = field(name="tokenFile", default=None)
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    exec: _Exec | None = None
    as_user: str | None = field(name="as", default=None)
    as_uid: str | None = None
    as_groups: list[str] | None = None
    as_user_extra: dict[str, list[str]] | None = None


class _Context(Struct):
    cluster: str | None = None
    user: str | None = None


class _NamedCluster(Struct):
    name: str
    cluster: _Cluster | None = None


class _NamedUser(Struct):
    name: str
    user: _User | None = None


class _NamedContext(Struct):
    name: str
    context: _Context | None = None


class _Config(Struct):
    current_context: str | None = field(name="current-context", default=None)
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


_Named = TypeVar("_Named", _NamedCluster, _NamedUser, _NamedContext)


class Kubeconfig(Struct, frozen=True):
    """A kubeconfig that can be used.

    `document` is the file's content, with the server replaced where `--master` names another one; `context` is the name
    of the context to use. `token_file` is the file of the user's token, if it is in one. `plugin` is the command that
    prints the credentials, or empty. `impersonation` are the headers that ask to be treated as another user.
    """

    document: dict[str, Any]
    context: str
    token_file: Path | None
    plugin: str
    impersonation: tuple[tuple[str, str], ...] = ()


def read_kubeconfig(path: Path, context: str | None, master: str | None) -> Kubeconfig:
    """The kubeconfig at `path`, checked for `context` or else its current one, with `master` as its server if given.

    Raises UsageError with one sentence that names file and field, and holds no credentials. Blocks.
    """
    document = _parse(path)
    try:
        config = msgspec.convert(document, _Config)
    except msgspec.ValidationError as error:
        complaint, _, place = str(error).partition(" - at `$")
        raise UsageError(f"{path}: {place.strip('.`') or 'file'}: {complaint}") from None
    chosen = context or config.current_context
    if not chosen:
        raise UsageError(f"{path}: current-context: missing, and --context names none")
    checker = _Checker(path)
    where = f"contexts[{chosen}].context"
    named = checker.find(config.contexts, chosen, "contexts", "current-context" if context is None else "--context")
    wanted = named.context or _Context()
    if not wanted.cluster:
        raise UsageError(f"{path}: {where}.cluster: missing")
    cluster = checker.find(config.clusters, wanted.cluster, "clusters", f"{where}.cluster")
    checker.check_cluster(cluster, master)
    user = _NamedUser("")
    if wanted.user:
        user = checker.find(config.users, wanted.user, "users", f"{where}.user")
        checker.check_user(user)
    _replace_server(document, wanted.cluster, master)
    fields = user.user or _User()
    use_file = fields.exec is None and not fields.token
    token_file = path.parent / fields.token_file if use_file and fields.token_file else None
    plugin = fields.exec.command if fields.exec else ""
    return Kubeconfig(document, chosen, token_file, plugin, tuple(_impersonation(fields)))


def _impersonation(user: _User) -> Iterator[tuple[str, str]]:
    """The headers of impersonation: see "User impersonation" in Kubernetes' reference of authentication."""
    if not user.as_user:
        return
    yield "Impersonate-User", user.as_user
    if user.as_uid:
        yield "Impersonate-Uid", user.as_uid
    for group in user.as_groups or ():
        yield "Impersonate-Group", group
    for key, values in (user.as_user_extra or {}).items():
        for value in values:
            yield f"Impersonate-Extra-{quote(key, safe='')}", value


def _parse(path: Path) -> dict[str, Any]:
    """The file's only document. Raises UsageError with line and column and nothing of the text: it has credentials."""
    try:
        document = parse_one(path.read_bytes(), path.name)
    except OSError as error:
        raise UsageError(f"--kubeconfig: {path}: {(error.strerror or str(error)).lower()}") from error
    except MalformedTextError as error:
        place = f" at {error.place}" if error.place else ""
        raise UsageError(f"--kubeconfig: {path}: not YAML{place}") from None
    if not isinstance(document, dict):
        raise UsageError(f"--kubeconfig: {path}: not a kubeconfig, which is a mapping with clusters and contexts")
    return document


def _replace_server(document: dict[str, Any], name: str, master: str | None) -> None:
    if master is None:
        return
    for entry in document["clusters"]:
        if entry["name"] == name:
            entry["cluster"]["server"] = master


class _Checker:
    """Checks the parts of one file; raises UsageError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, entries: Iterable[_Named] | None, name: str, section: str, source: str) -> _Named:
        found = [entry for entry in entries or () if entry.name == name]
        if not found:
            raise self._error(source, f'"{name}" is not among the {section}')
        if len(found) > 1:
            raise self._error(section, f'"{name}" is there {len(found)} times')
        return found[0]

    def check_cluster(self, named: _NamedCluster, master: str | None) -> None:
        where = f"clusters[{named.name}].cluster"
        if named.cluster is None:
            raise self._error(where, "missing")
        server = master or named.cluster.server
        if not server:
            raise self._error(f"{where}.server", "missing")
        if not server.startswith(("http://", "https://")):
            source = "--master" if master else f"{where}.server"
            raise self._error(
                source, f'"{without_keys(without_password(server))}" is not a URL such as https://10.0.0.1:6443'
            )
        self._check_file(f"{where}.certificate-authority", named.cluster.certificate_authority)
        self._check_data(f"{where}.certificate-authority-data", named.cluster.certificate_authority_data)

    def check_user(self, named: _NamedUser) -> None:
        where, user = f"users[{named.name}].user", named.user or _User()
        self._check_file(f"{where}.tokenFile", user.token_file)
        self._check_file(f"{where}.client-certificate", user.client_certificate)
        self._check_file(f"{where}.client-key", user.client_key)
        self._check_data(f"{where}.client-certificate-data", user.client_certificate_data)
        self._check_data(f"{where}.client-key-data", user.client_key_data)
        if not user.as_user and (user.as_uid or user.as_groups or user.as_user_extra):
            raise self._error(f"{where}.as", "missing, and as-uid, as-groups and as-user-extra are nothing without it")
        if any(not value.isprintable() for _, value in _impersonation(user)):
            raise self._error(f"{where}.as", "what stands in a header cannot have line feeds and the like")
        certificate = user.client_certificate or user.client_certificate_data
        key = user.client_key or user.client_key_data
        if certificate and not key:
            raise self._error(f"{where}.client-key", "missing, and client-certificate is of no use without it")
        if key and not certificate:
            raise self._error(f"{where}.client-certificate", "missing, and client-key is of no use without it")

    def _check_file(self, place: str, name: str | None) -> None:
        if not name:
            return
        try:
            (self._path.parent / name).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in it
            why = error.strerror if isinstance(error, OSError) else None
            raise self._error(place, f"{shown_path(name)}: {(why or 'not the name of a file').lower()}") from None

    def _check_data(self, place: str, text: str | None) -> None:
        try:
            base64.b64decode("".join((text or "").split()), validate=True)
        except (binascii.Error, ValueError):
            raise self._error(place, "not base64") from None

    def _error(self, place: str, complaint: str) -> UsageError:
        return UsageError(f"{self._path}: {place}: {complaint}")
