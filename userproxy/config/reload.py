"""What of a running proxy's settings may change without a restart."""

from msgspec import structs

from userproxy.config.flags import flag_of_field
from userproxy.config.ignored import PERIODS, has_effect
from userproxy.config.kubeproxy import KubeProxyConfiguration, leaves, replaced
from userproxy.config.settings import OwnSettings, Settings, settings_from

_RELOADED_PATHS = PERIODS | {"mode", "logging.verbosity", "logging.format"}
_RELOADED_SECTION = "conntrack."


def reload(old: Settings, new: Settings) -> tuple[Settings, tuple[str, ...]]:
    """`old` with what may change while running taken from `new`, and the names of what else differs.

    Logging, sync periods and conntrack settings change at once. Whatever decides how packets reach listeners, or which
    addresses and families there are, needs a restart, and so does everything that only flags set. The names are paths
    of the file, and flags. A field that has no effect, before or after, takes its new value: see `changed_in_vain`.
    """
    before = dict(leaves(old.configuration))
    changed = {path: value for path, value in leaves(new.configuration) if value != before[path]}
    restart = [path for path in changed if _needs_restart(path, old.configuration, new.configuration)]
    safe = {path: value for path, value in changed.items() if path not in restart}
    own = {item.name: getattr(old, item.name) for item in structs.fields(OwnSettings)}
    restart += [flag_of_field(name) for name, value in own.items() if value != getattr(new, name)]
    return settings_from(replaced(old.configuration, safe), OwnSettings(**own)), tuple(restart)


def changed_in_vain(old: Settings, new: Settings) -> tuple[str, ...]:
    """The paths of values that differ and have no effect, neither before nor after."""
    before = dict(leaves(old.configuration))
    changed = [path for path, value in leaves(new.configuration) if value != before[path]]
    configurations = (old.configuration, new.configuration)
    return tuple(path for path in changed if not any(has_effect(path, each) for each in configurations))


def _needs_restart(path: str, old: KubeProxyConfiguration, new: KubeProxyConfiguration) -> bool:
    if path == "featureGates":
        return old.external_ips_allowed != new.external_ips_allowed
    if path.startswith(_RELOADED_SECTION):
        return False
    return path not in _RELOADED_PATHS and (has_effect(path, old) or has_effect(path, new))
