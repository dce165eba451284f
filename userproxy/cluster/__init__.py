"""Where the truth comes from: Kubernetes objects in, changed Services out.

The way of an object from files::

    manifests   files, read again when they change            -> text
    documents   text, one Kubernetes object after the other   -> plain dicts, each with its place
    decode      one dict: raw (its shape), then service and backends with checks (its values) and annotations
                -> Service, EndpointSlice, Node
    store       all objects of all sources, changes collapsed -> what became of each Service in each address family

The way of an object from the API server, into the same store::

    kubeconfig, credentials    who we are and whom we trust
    client                     one request: bytes, or one of failures
    listing, watching          one list in pages; one watch, its lines cut by framing
    reader                     one object's bytes: raw, then service and backends, never raising
    api                        resources followed for ever, with pauses by backoff

What does not belong here: a routing decision (which endpoints are eligible, which Services are skipped),
a portal rule, a socket to a client.
"""
