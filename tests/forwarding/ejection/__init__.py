"""Tests of userproxy.forwarding.ejection."""
