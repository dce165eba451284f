"""Parts of a relay."""
