"""Endpoints that get no new clients: by request, or because no slice names them any more."""
