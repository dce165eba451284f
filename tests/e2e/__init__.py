"""The installed command in network namespaces, seen as a user sees it."""
