"""The demo: a small cluster network out of namespaces, in which userproxy is shown at work.

``hosts`` and ``network`` build the machines, ``programs`` runs things in them, ``traffic`` sends requests,
``play`` is what it shows, kept away from the machine below. The end-to-end tests build their hosts from the same
modules.
"""
