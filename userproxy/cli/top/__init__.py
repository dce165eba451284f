"""``userproxy top``: what services, endpoints and clients are doing now, on a screen that refreshes itself."""
