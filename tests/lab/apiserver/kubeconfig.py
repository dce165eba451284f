"""Files that tell a client how to reach the server and who it is."""

import sys
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.lab.apiserver.tls import Certificates

Auth = Literal["token", "token-file", "certificate", "exec", "insecure"]

_PLUGIN = """\
import json, pathlib
token = pathlib.Path({path!r}).read_text()
version = "client.authentication.k8s.io/v1"
print(json.dumps({{"kind": "ExecCredential", "apiVersion": version, "status": {{"token": token}}}}))
"""


def write_kubeconfig(
    path: Path, url: str, files: Certificates | None, token: str, auth: Auth, context: str, current: str | None
) -> Path:
    """A kubeconfig with `context`, and a second context ``elsewhere`` that leads nowhere (RFC 5737).

    `current` names the current context, `context` where it is None. A token's file is ``<path>.token``.
    """
    cluster: dict[str, Any] = {"server": url}
    if auth == "insecure":
        cluster["insecure-skip-tls-verify"] = True
    elif files is not None:
        cluster["certificate-authority"] = str(files.ca)
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "lab", "cluster": cluster},
            {"name": "elsewhere", "cluster": {"server": "https://192.0.2.1:6443"}},
        ],
        "users": [{"name": "lab", "user": _user(path, files, token, auth)}],
        "contexts": [
            {"name": context, "context": {"cluster": "lab", "user": "lab"}},
            {"name": "elsewhere", "context": {"cluster": "elsewhere", "user": "lab"}},
        ],
        "current-context": current or context,
    }
    path.write_text(yaml.safe_dump(document))
    return path


def write_token(path: Path, token: str) -> None:
    """In one step, as kubelet rotates it."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(token)
    draft.rename(path)


def token_path(kubeconfig: Path) -> Path:
    return kubeconfig.with_name(f"{kubeconfig.name}.token")


def _user(path: Path, files: Certificates | None, token: str, auth: Auth) -> dict[str, Any]:
    if auth == "certificate":
        assert files is not None, "certificates need TLS"
        return {"client-certificate": str(files.client), "client-key": str(files.client_key)}
    if auth in ("token", "insecure"):
        return {"token": token}
    write_token(token_path(path), token)
    if auth == "token-file":
        return {"tokenFile": str(token_path(path))}
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", _PLUGIN.format(path=str(token_path(path)))],
        "interactiveMode": "Never",
    }
    return {"exec": plugin}
