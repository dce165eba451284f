"""Where Kubernetes objects come from: manifests or the API server fill a Store, which says which Services changed.

=================== ==================================================================================================
objects/            Kubernetes objects become values of the model: which fields are read, and what is wrong with them
store               all objects as they are now, and which Services changed since a consumer last asked
manifests           files and folders of manifests, read again when they change -> Store
api_source          Services, EndpointSlices and our own Node from the API server -> Store
watch               one resource for ever: list, watch, list again where the server has forgotten our version; pauses
listing             one list of a resource, streamed or in pages
watch_stream        one watch request: bytes -> events
client              requests to the API server, and what their failures mean
credentials         who we are to the API server, and whom we trust
kubeconfig          what a kubeconfig file must look like
redaction           texts for logs without passwords, tokens and keys
api_errors          what can go wrong with the API server, and how often the log says it
nodes               our own Node, and which addresses are those of the cluster's Nodes
=================== ==================================================================================================

What does not belong here: a routing decision (which endpoints are eligible, which Services are skipped),
a portal rule, a socket to a client.
"""
