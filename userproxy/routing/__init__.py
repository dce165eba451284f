"""Pure decisions: which service ports a Service has, which endpoints may serve them, who gets a connection.

Nothing here touches a socket, a file, a clock or a loop: time and randomness are arguments.
"""
