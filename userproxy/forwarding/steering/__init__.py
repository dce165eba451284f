"""What the data plane is told to do with single connections."""
