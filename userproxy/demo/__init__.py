"""The demo: a small cluster network out of namespaces, and a story that userproxy is shown in.

``hosts`` and ``network`` build the machines, ``programs`` runs things in them, ``traffic`` sends requests,
``sandbox`` keeps it all away from the machine below, ``story`` tells it. The end-to-end tests build their
hosts from the same modules.
"""
