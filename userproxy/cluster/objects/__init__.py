"""Kubernetes objects as the API has them become values of the model.

======================= ==============================================================================================
schema                  the objects in the API's own shape: which fields are read, and of what type each is
validation              checks of single fields, by the API server's own rules
service, annotations    a Service, and its own settings under ``userproxy.io/``
endpoints               EndpointSlices and Endpoints
node                    a Node
keys                    what makes two objects the same one
documents               one manifest document (plain values) -> objects
manifest                one manifest file (text) -> objects and problems, with its last good content to fall back to
resources               where the API server has the objects of a kind, and which of them are asked for
reader                  one object of the API (bytes) -> object; what is wrong with it is logged, never raised
======================= ==============================================================================================
"""
