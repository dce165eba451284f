"""The kernel's entries of connections that contradict new rules, and their deletion."""
