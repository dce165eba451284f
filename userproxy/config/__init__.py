"""Flags and kube-proxy's configuration file become one validated Settings.

    flag_types  how the text of a flag becomes a value
    flags       the table of all flags: the paths of the file that each sets, or a setting of our own
    file        reads and writes the configuration file
    kubeproxy   the fields of the file and their defaults (KubeProxyConfiguration, v1alpha1)
    validate    checks the values
    load        puts it all together: Settings, and what to log at the start
    settings    the result
    ignored     the fields that have no effect in userproxy
    reload      what may change while userproxy runs

Nothing here opens a kubeconfig, a socket or a manifest, and nothing logs.
"""

from userproxy.config.load import Loaded, Notice, load, require_source
from userproxy.config.reload import reload
from userproxy.config.settings import AfterTakeover, AtStop, EventLoop, OwnSettings, PortalMode, Settings, configz

__all__ = [
    "AfterTakeover",
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
