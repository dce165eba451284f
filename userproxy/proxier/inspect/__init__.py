"""What the control plane says of itself: service ports, endpoints, portals, and what a client would meet.

``reports`` has the values and the interface, ``control_plane`` answers for all families and ``inquiry`` for one of
them; ``explanation`` is what a client would meet and why, and ``surroundings`` what the node is for its clients.
"""
