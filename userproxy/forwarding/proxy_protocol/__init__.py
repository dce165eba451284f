"""The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): a header before a connection's first byte.

It tells a backend whose connection it is, where that cannot be seen from its addresses.
"""
