"""Tests of userproxy.routing.balancers.shared."""
