"""Balancers of other packages are found and imported here; what they are asked is `routing.balancers.custom`'s."""
