"""What can go wrong, split by who must act. Foreign exceptions become one of these at the adapter's edge.

Here, below all other packages, because each of them raises some.
"""


class UserproxyError(Exception):
    """Base of all errors that userproxy raises on purpose; the text is one sentence for a person."""


class UsageError(UserproxyError):
    """A flag or a configuration file is wrong: whoever started us must act. Ends the start with exit code 2."""


class ObjectError(UserproxyError):
    """An object of the cluster is malformed: whoever wrote it must act. The text names object, field and value."""


class PortUnavailableError(UserproxyError):
    """A local port cannot be had, because another program or another Service holds it."""


class OutOfDescriptorsError(PortUnavailableError):
    """A local port cannot be had, because the limit of open files leaves no descriptor for it."""


class KernelToolError(UserproxyError):
    """iptables, nft or the kernel behind them refused: whoever runs the node must act."""
