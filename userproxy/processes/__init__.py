"""Control and data processes: traffic has processes of its own, which the control process starts, feeds and replaces.

The control process binds all sockets and holds them for their whole life. Data processes get copies of their
descriptors, and snapshots, as messages (`messages`) over a socketpair (`channel`).
"""
