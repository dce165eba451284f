"""A userspace Service proxy for Kubernetes: kube-proxy's original mode, rebuilt on asyncio.

Its words are in docs/glossary.md; docs/architecture.md follows a Service and a connection through the modules.
"""

__version__ = "0.1.0.dev0"
