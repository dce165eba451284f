"""Starts Pods for Services whose clients wait: runs a command for each NeedPods Event that userproxy writes.

controller.py kubectl -n {namespace} scale deployment {name} --replicas=1
"""

import argparse
import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = "/var/run/secrets/kubernetes.io/serviceaccount"
EVENTS = "/apis/events.k8s.io/v1/events?fieldSelector=reason%3DNeedPods"
HOST, PORT = os.environ.get("KUBERNETES_SERVICE_HOST", "localhost"), os.environ.get("KUBERNETES_SERVICE_PORT", "6443")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=f"https://{HOST}:{PORT}")
    parser.add_argument("--ca", default=f"{HERE}/ca.crt", help="whom the server's certificate is signed by")
    parser.add_argument("--token-file", default=f"{HERE}/token", help="read anew for each request: kubelet rotates it")
    parser.add_argument("--pause", type=float, default=30.0, help="seconds before a Service's command is run again")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="{namespace} and {name} are the Service's")
    return parser.parse_args()


def get(asked: argparse.Namespace, path: str) -> http.client.HTTPResponse:
    """The beginning of an answer. Raises OSError."""
    context = ssl.create_default_context(cafile=asked.ca)
    connection = http.client.HTTPSConnection(urlsplit(asked.server).netloc, context=context, timeout=330)
    connection.request("GET", path, headers={"Authorization": f"Bearer {Path(asked.token_file).read_text().strip()}"})
    answer = connection.getresponse()
    if answer.status != http.client.OK:
        raise OSError(f"{path}: {answer.status} {answer.reason}")
    return answer


def services(asked: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The namespace and name of each Service that needs Pods from now on, as often as it is said."""
    version = json.load(get(asked, EVENTS))["metadata"]["resourceVersion"]
    for line in get(asked, f"{EVENTS}&watch=1&timeoutSeconds=300&resourceVersion={version}"):
        change: dict[str, Any] = json.loads(line)
        if change["type"] in ("ADDED", "MODIFIED"):  # a repeat raises the count of the Event that there is
            about = change["object"]["regarding"]
            yield about["namespace"], about["name"]


def main() -> None:
    asked, started = options(), dict[tuple[str, str], float]()
    while True:
        try:
            for namespace, name in services(asked):
                if time.monotonic() - started.get((namespace, name), float("-inf")) >= asked.pause:
                    started[namespace, name] = time.monotonic()
                    subprocess.run([each.format(namespace=namespace, name=name) for each in asked.command], check=False)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            print(f"asking again: {error}", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
