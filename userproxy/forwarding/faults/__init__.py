"""Faults that connections are made to have: a connection that has none knows nothing of them.

Which connections suffer which faults is decided in `choice`, what these come to in `shape`, and when bytes may leave in
`schedule`; all three are pure. `stream` and `datagrams` make them suffer it, and `faults` has those of a process.
"""
