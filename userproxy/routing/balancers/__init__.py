"""Balancers: which of a listener's endpoints a new connection gets, a module each behind one protocol.

``interface`` is that protocol, and ``methods`` the table of them. What all have in common, affinity and the passing
over of endpoints that fail, is :mod:`userproxy.routing.balancer`'s.
"""
