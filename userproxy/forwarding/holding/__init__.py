"""Clients of Services without endpoints who are held until there is one (``userproxy.io/hold``)."""
