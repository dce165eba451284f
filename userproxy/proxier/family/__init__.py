"""One address family of a running proxy: what is configured for it, what it alone has, and when it syncs."""
