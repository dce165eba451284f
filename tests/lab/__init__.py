"""A small cluster in network namespaces for end-to-end tests; ``lab`` in ``fixtures`` is the way in.

::

    def test_a_pod_answers(lab: Lab) -> None:
        lab.serve_http()
        lab.manifests.service("web", cluster_ip="10.96.0.10", ports=80)
        lab.manifests.slice("web", lab.pods)
        lab.node.start_userproxy()
        lab.node.wait_for_rules("default/web")
        assert fetch(lab.client, ("10.96.0.10", 80)).pod in {"web-1", "web-2", "web-3"}
"""
