"""Flags and file become Settings, and lines for the log about what was ignored."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from userproxy.addresses import is_ipv6, is_loopback, parse_socket_address
from userproxy.config.file import FileContent, decode
from userproxy.config.flags import FLAGS, Flag, flag_of_path
from userproxy.config.ignored import has_effect, without_effect
from userproxy.config.kubeproxy import HEALTHZ_PORT, METRICS_PORT, KubeProxyConfiguration, replaced
from userproxy.config.settings import OwnSettings, PortalMode, Settings, settings_from
from userproxy.config.validate import check
from userproxy.errors import UsageError

_FLAGS = {flag.name: flag for flag in FLAGS}


class _Server(Struct, frozen=True):
    """A server of ours: the field that says where it listens, its deprecated flag, and its defaults."""

    path: str
    port_flag: str
    port: int
    ipv4: str
    ipv6: str


_SERVERS = (
    _Server("healthzBindAddress", "healthz-port", HEALTHZ_PORT, "0.0.0.0", "::"),
    _Server("metricsBindAddress", "metrics-port", METRICS_PORT, "127.0.0.1", "::1"),
)

Given = Mapping[str, str | Sequence[str]]
"""Texts of the flags that were given, by name without dashes; a sequence for a flag that is repeatable."""


class Notice(Struct, frozen=True):
    """One line for the log at the start."""

    text: str
    fields: dict[str, Any]
    is_warning: bool = True


class Loaded(Struct, frozen=True, kw_only=True):
    """Valid settings, the lines to log about what they were made from, and what to do instead of serving."""

    settings: Settings
    notices: tuple[Notice, ...] = ()
    write_config_to: Path | None = None
    cleanup: bool = False
    init_only: bool = False


def load(given: Given) -> Loaded:
    """Settings from flags, and from the file that ``--config`` names.

    Raises UsageError with one line for each mistake, naming the flag, or file and field, and the value.
    """
    file = str(given.get("config", ""))
    ignored = [name for name in given if file and not _FLAGS[name].beside_config]
    draft = _Draft(file, _read(file) if file else FileContent({}))
    for name, text in given.items():
        if name not in ignored:
            draft.take(_FLAGS[name], text)
    configuration = draft.finish()
    actions = draft.actions
    return Loaded(
        settings=settings_from(configuration, OwnSettings(**draft.own)),
        notices=tuple(draft.notices(configuration, ignored)),
        write_config_to=actions.get("write-config-to"),
        cleanup=actions.get("cleanup", False),
        init_only=actions.get("init-only", False),
    )


def require_source(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raises UsageError unless there is a place to learn of Services from: files or an API server."""
    if settings.manifests or settings.kubeconfig or settings.master or environ.get("KUBERNETES_SERVICE_HOST"):
        return
    raise UsageError(
        "nothing says which Services to serve: give --manifests PATH, or --kubeconfig FILE for an API server,"
        " or run in a Pod"
    )


def _read(file: str) -> FileContent:
    try:
        return decode(Path(file).read_bytes())
    except OSError as error:
        raise UsageError(f"--config: {file}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error


class _Draft:
    """The values read so far, where each came from, and every mistake so far.

    `own` are fields of OwnSettings; `actions` are values of flags that set neither a field nor a path.
    """

    def __init__(self, file: str, decoded: FileContent) -> None:
        self.own: dict[str, Any] = {}
        self.actions: dict[str, Any] = {}
        self._file = file
        self._decoded = decoded
        self._values = dict(decoded.given)
        self._flags: dict[str, str] = {}
        self._mistakes = [f"{file}: {problem.path}: {problem.text}" for problem in decoded.problems]

    def take(self, flag: Flag, text: str | Sequence[str]) -> None:
        try:
            value = flag.kind.parse(text)
        except ValueError as error:
            self._mistakes.append(f"--{flag.name}: {error}")
            return
        if flag.field:
            self.own[flag.field] = value
        elif not flag.paths:
            self.actions[flag.name] = value
        for path in flag.paths:
            self._values[path] = value
            self._flags[path] = f"--{flag.name}"

    def finish(self) -> KubeProxyConfiguration:
        """The whole configuration. Raises UsageError if any mistake was made."""
        for server in _SERVERS:
            self._complete_address(server)
        configuration = replaced(KubeProxyConfiguration(), self._values)
        self._mistakes += [f"{self._name(problem.path)}: {problem.text}" for problem in check(configuration)]
        self._check_together(configuration)
        if self._mistakes:
            raise UsageError("\n".join(dict.fromkeys(self._mistakes)))
        return configuration

    def _complete_address(self, server: _Server) -> None:
        """Fill in an address's port, or its default. Text that is no address stays as it is and fails the check."""
        default = server.ipv6 if is_ipv6(self._values.get("bindAddress", "")) else server.ipv4
        address = self._values.get(server.path, default)
        port = self.actions.get(server.port_flag, server.port)
        if server.port_flag in self.actions:
            self._flags.setdefault(server.path, f"--{server.port_flag}")
        if not port:
            self._flags[server.path] = f"--{server.port_flag}"
            address = ""
        with contextlib.suppress(ValueError):
            address = str(parse_socket_address(address, port))
        self._values[server.path] = address

    def _check_together(self, configuration: KubeProxyConfiguration) -> None:
        """Note values that are wrong only together with another one."""
        context = self.own.get("context")
        if context and not configuration.client_connection.kubeconfig:
            self._mistakes.append(f"--context: {context!r} can be found only in a kubeconfig, and none is given")
        address = configuration.bind_address
        if self.own.get("portals") in (PortalMode.IPTABLES, PortalMode.NFTABLES) and is_loopback(address):
            self._mistakes.append(
                f"{self._name('bindAddress')}: {address} cannot be the target of portal rules,"
                " because the kernel does not translate to loopback addresses"
            )

    def notices(self, configuration: KubeProxyConfiguration, ignored: Sequence[str]) -> Iterator[Notice]:
        if self._decoded.unknown:
            fields = {"file": self._file, "fields": list(self._decoded.unknown)}
            yield Notice("Unknown fields of the configuration are ignored", fields)
        if self._decoded.duplicate:
            fields = {"file": self._file, "fields": list(self._decoded.duplicate)}
            yield Notice("Of fields given twice the last counts", fields)
        if ignored:
            yield Notice("Flags are ignored beside --config", {"flags": [f"--{name}" for name in ignored]})
        idle = self._idle(configuration)
        if idle:
            yield Notice("Settings without effect in userproxy", {"settings": idle})
        if configuration.mode not in {"", "userspace"}:
            yield Notice("The proxy mode is userspace", {"asked": configuration.mode}, is_warning=False)

    def _idle(self, configuration: KubeProxyConfiguration) -> list[str]:
        """The flags and paths that were set without effect. A flag has an effect if any value that it sets has one."""
        useful = {flag for path, flag in self._flags.items() if has_effect(path, configuration)}
        names = (self._flags.get(path, path) for path in without_effect(configuration))
        return [name for name in dict.fromkeys(names) if name not in useful]

    def _name(self, path: str) -> str:
        if path in self._flags:
            return self._flags[path]
        return f"{self._file}: {path}" if self._file else flag_of_path(path)
