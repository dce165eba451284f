"""What the admin API changes: drains, and connections that are closed."""
