"""The metrics ``userproxy_*`` of traffic: what the data plane says of itself, as a scraper reads it.

`families` is the table of those that each service port has, `series` decides which service ports have series of their
own and adds up what they did, and `collector` asks the data plane.
"""
