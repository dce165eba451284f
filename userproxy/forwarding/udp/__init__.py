"""UDP: a listener takes clients' datagrams, and each client has a flow to one endpoint."""
