"""Limits of a service port's clients: how many there may be, how fast they may come, and how quiet they may be."""
