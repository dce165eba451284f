"""Sockets that connect to endpoints: from the node's address, or from clients' own, and what is learned of those."""
