"""A userspace Service proxy for Kubernetes: kube-proxy's original mode, rebuilt on asyncio.

The nouns, as every module uses them:

service port
    One port of one Service: namespace, name, port name, protocol. The unit everything is keyed by.
endpoint
    One backend address ``ip:port`` of a service port.
portal
    One address through which a service port can be reached: cluster IP, external IP, load-balancer IP,
    node port.
portal driver
    What makes packets for portals reach our listeners.
listener
    A socket we accept (TCP) or receive (UDP) on.
route
    Where one class of a service port's traffic goes: a verdict, and the endpoints that serve it. Each has a listener.
balancer
    Chooses an endpoint for a new connection or flow.
connection
    One TCP client's traffic through us; its *relay* moves the bytes between two sockets.
flow
    One UDP client's traffic through us.
proxier
    The reconciler: from wanted service ports to listeners, balancers and portals, for one address family.
"""

__version__ = "0.1.0.dev0"
