"""Builds the parts of userproxy, connects them, runs them until the stop, and shuts them down."""
