"""The ``iptables`` driver: the classic mode's rules, in the tables of whichever variant of iptables the node uses.

From wanted to written: ``driver`` is given bindings; ``rules`` says what the rules of each are (a portal's REDIRECT or
DNAT, REJECT or DROP), in the chains of ``chains``; ``changes`` finds the smallest change from what ``parser`` has read;
``tables`` has one of ``writers/`` write it, and reads it back.

What may be in the way: ``variant`` (which tables the node uses), ``features`` (what the kernel lacks), ``isolation``
(which rules it refuses), ``other_proxies`` (whose rules stand there as well), ``sentinel`` and ``canary`` (others have
changed ours).
"""
