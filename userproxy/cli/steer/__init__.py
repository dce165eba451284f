"""Commands that have a running proxy do something."""
