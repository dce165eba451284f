"""What data processes can say of connections, flows and decisions, as that of one process."""
