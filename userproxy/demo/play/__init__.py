"""The demo itself: its steps, what they print, and the namespaces in which nothing of the machine is touched."""
