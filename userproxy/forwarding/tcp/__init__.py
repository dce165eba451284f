"""TCP: a listener accepts clients, a dial finds each an endpoint, a relay moves the bytes of both directions."""
