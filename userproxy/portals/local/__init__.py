"""The ``local`` driver: portals are addresses of this node, and listeners are bound to them."""
