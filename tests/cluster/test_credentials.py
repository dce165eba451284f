"""The Kubernetes library is imported without what nobody here uses. Each look is at a process of its own."""

import json
import subprocess
import sys
from typing import Any


def seen_after(program: str) -> Any:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_client_works_without_its_models_and_apis() -> None:
    program = """
import json, sys
from userproxy.cluster.credentials import import_client
import_client()
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.rest import RESTClientObject
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
from kubernetes_asyncio.config.kube_config import KubeConfigLoader
generated = [name for name in sys.modules if name.startswith(("kubernetes_asyncio.client.models.",
                                                              "kubernetes_asyncio.client.api."))]
print(json.dumps([Configuration(host='http://a').host, len(generated), type(sys.meta_path[0]).__name__]))
"""
    host, generated, first_finder = seen_after(program)
    assert host == "http://a"
    assert generated == 0
    assert first_finder != "_Finder"


def test_the_real_modules_can_be_imported_afterwards() -> None:
    program = """
import json
from userproxy.cluster.credentials import import_client
import_client()
from kubernetes_asyncio.client.models.v1_object_meta import V1ObjectMeta
print(json.dumps(V1ObjectMeta(name="a").name))
"""
    assert seen_after(program) == "a"


def test_a_client_that_is_there_already_stays_whole() -> None:
    program = """
import json
import kubernetes_asyncio.client
from userproxy.cluster.credentials import import_client
import_client()
print(json.dumps(kubernetes_asyncio.client.V1ObjectMeta(name="a").name))
"""
    assert seen_after(program) == "a"
