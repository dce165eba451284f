"""The commands that ask a running proxy and change nothing: each asks its admin API, and prints."""
