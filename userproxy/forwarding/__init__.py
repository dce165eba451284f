"""The data plane: listeners, dials, relays. Bytes meet callbacks and counters here, nothing else.

It knows a service port only by its :class:`~userproxy.model.Snapshot`. What does not belong here:
Kubernetes objects, portal rules, metrics formats, and any Task per connection.
"""
