"""With this directory in PYTHONPATH userproxy is a release that describes connections otherwise."""

from userproxy.forwarding.handover import values

_OURS = values.release()
values.release = lambda: _OURS + 1
