"""How this process takes a predecessor's place, starts a successor, and stops in favour of one."""
