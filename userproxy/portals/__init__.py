"""What makes packets for portals reach our listeners: the portal drivers.

Here belong the text of the rules (pure: ``rules``, ``tables``, ``changes``), the programs and libraries
that write them, the look-ups that the rules depend on (which iptables, which host address) and the
claims that keep a port of this node ours. A driver takes :class:`~userproxy.model.PortalBinding` values and
knows nothing else: which service ports exist, which endpoints serve them, who listens on a local port
and when to synchronise are decided elsewhere.
"""
