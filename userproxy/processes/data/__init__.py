"""A data process: serves the sockets it is handed, and answers what the control process asks."""
