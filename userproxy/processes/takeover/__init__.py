"""One userproxy takes the place of another: listeners, connections and flows go on in it (``--takeover``).

The predecessor describes what it has while it serves on (`predecessor`), and the successor builds it without touching a
byte (`successor`). Then, in one turn of the predecessor's loop, comes what has changed meanwhile, and a pipe with one
byte in it. Whoever reads that byte has everything: the successor, or the predecessor if that has waited too long. So at
no instant two processes read a socket, and nothing is lost whoever fails.
"""
