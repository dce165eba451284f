"""Local ports: ranges of them, and those that listeners may have."""
