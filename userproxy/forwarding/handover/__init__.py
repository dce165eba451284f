"""The hand-over of listeners, connections and flows to another process, which goes on with them.

:class:`~userproxy.forwarding.handover.giving.Giver` makes values of all that there is, and
:class:`~userproxy.forwarding.handover.taking.Taker` makes of the values what they were. How values and descriptors get
from one to the other is somebody else's business.
"""
