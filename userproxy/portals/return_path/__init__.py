"""The way back for answers to a client's address, which is not this node's: to our own sockets, bound to that address.

A rule of netfilter marks packets for such sockets (``rules``), and policy routing makes marked packets local
(``policy_routing``). Between two Pods of one bridge answers are given to the host first. ``surroundings`` says which
networks are behind which links, ``keeper`` writes all of it, repairs it, and tells what can be had.
"""
