"""What the data plane notes of its work, and how it answers when it is asked.

`counters` and `recorder` are written to by connections and flows as they go: plain numbers, and a tuple for each
decision. Everything else runs only when somebody asks, in slices between which traffic is served.
"""
