"""Flags and kube-proxy's configuration file become one validated Settings.

The way of a value::

    kinds      the text of a flag                            -> a value, or a clause that says what is wrong
    decode     the bytes of the file                         -> values by path, what is unknown, what is wrong
    kubeproxy  the fields and their defaults (KubeProxyConfiguration, v1alpha1)
    flags      one table: flag -> paths of the file, or a setting of our own
    validate   what must hold for the values
    load       all of it together                            -> Settings, and what to log at the start
    settings   the result; effect says what means nothing here, reload what may change while running
    write      the configuration                             -> a file

What does not belong here: opening a kubeconfig, a socket, a manifest. Nothing here logs.
"""

from userproxy.config.load import Loaded, Notice, load, require_source
from userproxy.config.reload import reload
from userproxy.config.settings import AtStop, EventLoop, OwnSettings, PortalMode, Settings, configz

__all__ = [
    "AtStop",
    "EventLoop",
    "Loaded",
    "Notice",
    "OwnSettings",
    "PortalMode",
    "Settings",
    "configz",
    "load",
    "reload",
    "require_source",
]
