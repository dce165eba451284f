"""Groups of UDP sockets as the control process has them, which opens them and reads none."""
