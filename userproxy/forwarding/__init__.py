"""The data plane: accepts clients and moves their bytes and datagrams, with callbacks of the event loop.

What is TCP's or UDP's alone stands in the folder of that name; what both share, here. A service port is known only by
its :class:`~userproxy.model.Snapshot`. Kubernetes objects, portal rules and metrics formats do not belong here, nor a
Task, a log line or an avoidable allocation for each connection.
"""
