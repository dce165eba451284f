"""What the processes that have connections to the same endpoints know together of those that fail."""
