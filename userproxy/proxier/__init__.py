"""The reconciler: from wanted service ports to listeners, balancers and portals.

`plan` compares and decides, purely; `proxier` performs and remembers; `runner` says when. The rest of
userproxy appears here only as the Protocols in `interfaces`.
"""
