"""The admin API: what a running proxy says of itself, as JSON over HTTP on a Unix socket, and the client for it.

`client` and `paths` use the standard library alone, since every command imports them.
"""
