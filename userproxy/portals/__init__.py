"""Portal drivers: what makes packets for portals reach our listeners.

A driver implements :class:`~userproxy.portals.interface.PortalDriver`, in a folder of its own (``iptables/``) or a
module (``none``), and is listed in ``drivers``. It is given :class:`~userproxy.model.PortalBinding` values. Which
service ports exist, which endpoints serve them and when to synchronise are decided by the proxier.

What drivers share: ``host`` (the node's addresses, our capabilities), ``programs`` (running them), ``netlink/`` (asking
the kernel), ``lease`` (only one process of a node changes its rules), ``cleanup`` (removing what any of them left).
What stands beside the driver: ``claims`` holds node ports, ``sysctls`` sets up connection tracking.
"""
