"""The ``iptables`` driver: the classic mode's rules, in the tables of whichever variant of iptables the node uses.

``rules`` is what the rules of one service port are, as text (a portal's REDIRECT or DNAT); ``changes`` how what stands
becomes what is wanted; ``tables`` reads and writes it by ``writers`` and ``libiptc``; ``driver`` joins them.
"""
