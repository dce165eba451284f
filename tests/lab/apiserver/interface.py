"""What tests say to a fake server, wherever it runs."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from tests.lab.apiserver.faults import Cut
from tests.lab.apiserver.kubeconfig import Auth, token_path, write_kubeconfig, write_token
from tests.lab.apiserver.rest import Recorded
from tests.lab.apiserver.storage import Object
from tests.lab.apiserver.tls import Certificates


class ApiServer:
    """Every method returns once the server has done it. May be called from any thread."""

    url: str
    files: Certificates | None
    """None where it speaks plain HTTP."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        """The token that counts at the moment."""
        self._token_files: list[Path] = []

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A method of the engine by name."""
        raise NotImplementedError

    def put(self, *documents: Mapping[str, Any]) -> None:
        """Create objects or replace them; kind and metadata.name are all they need."""
        self.call("put", *documents)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Raises ApiError (or RuntimeError from afar) where there is none."""
        self.call("delete", kind, namespace, name)

    @property
    def objects(self) -> dict[tuple[str, str, str], Object]:
        """All objects by kind, namespace and name: copies."""
        found = self.call("objects")
        return {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each for each in found}

    @property
    def requests(self) -> list[Recorded]:
        """The requests so far, oldest first; at most 20,000."""
        return msgspec.convert(self.call("requests"), list[Recorded], from_attributes=True)

    def streams(self, resource: str | None = None) -> int:
        """How many watches are open, of one resource (plural or kind) or of all."""
        return int(self.call("streams", resource))

    def cut_streams(self, at: Cut = "line", resource: str | None = None, *, next_event: bool = False) -> None:
        """End all open watches now, or within the next event that each of them is to send."""
        self.call("cut_streams", at, resource, next_event)

    def stall(self, seconds: float = 60.0, resource: str | None = None) -> None:
        """Open watches send nothing more, not even a FIN, until `resume` or until they are aborted."""
        self.call("stall", seconds, resource)

    def resume(self) -> None:
        self.call("resume")

    def slow_streams(self, size: int = 7, pause: float = 0.0) -> None:
        """Watches send `size` bytes a chunk, `pause` seconds apart; size 0 ends it."""
        self.call("slow_streams", size, pause)

    def duplicate(self, count: int) -> None:
        """Every open watch sends its next `count` events twice."""
        self.call("duplicate", count)

    def replay(self, count: int) -> None:
        """Every open watch sends the last `count` changes of its resource once more, in order.

        Where some of them are still to be sent, it sends all that are, whatever `hold` says.
        """
        self.call("replay", count)

    def hold(self, *resources: str) -> None:
        """Events of these come late: not before `release`."""
        self.call("hold", *resources)

    def release(self) -> None:
        self.call("release")

    def bookmark(self) -> None:
        """Send a bookmark to every watch that allows them."""
        self.call("bookmark")

    def compact(self) -> int:
        """Forget all history and expire all continue tokens; the oldest revision that is left."""
        return int(self.call("compact"))

    def gone_as(self, way: Literal["event", "http"]) -> None:
        """How a watch from a compacted revision is refused."""
        self.call("gone_as", way)

    def streaming_lists(self, status: int = 200) -> None:
        """200: sendInitialEvents works. Any other code is the answer to it."""
        self.call("streaming_lists", status)

    def progress(self, *, told: bool = True) -> None:
        """Whether etcd tells its progress. If not, a streamed list is answered 200 and one ERROR of code 500."""
        self.call("progress", told)

    def restore(self, revision: int) -> None:
        """Objects stay, and versions go on from `revision`, as after a restore of etcd from a backup."""
        self.call("restore", revision)

    def fail_next(self, count: int, status: int, retry_after: int | None = None, resource: str | None = None) -> None:
        """The next `count` requests are answered with `status`."""
        self.call("fail_next", count, status, retry_after, resource)

    def hang_next(self, count: int, seconds: float = 30.0, resource: str | None = None) -> None:
        """The next `count` requests get no answer; after `seconds` they are aborted."""
        self.call("hang_next", count, seconds, resource)

    def truncate_next(self, count: int, resource: str | None = None) -> None:
        """The bodies of the next `count` answers end half-way."""
        self.call("truncate_next", count, resource)

    def forbid(self, *resources: str) -> None:
        """403 for all that is asked of these, until `allow`."""
        self.call("forbid", *resources)

    def allow(self, *resources: str) -> None:
        self.call("allow", *resources)

    def skew(self, seconds: float) -> None:
        """The header Date is so many seconds ahead from now on."""
        self.call("skew", seconds)

    def rotate_token(self, *, write: bool = True) -> str:
        """Only a new token is valid from now on. `write` puts it where the kubeconfigs' users look for it."""
        self.token = secrets.token_urlsafe(24)
        self.call("set_tokens", [self.token])
        for path in self._token_files if write else ():
            write_token(path, self.token)
        return self.token

    def kubeconfig(self, path: Path, auth: Auth = "token", context: str = "lab", *, current: str | None = None) -> Path:
        """Write a kubeconfig for this server; see `write_kubeconfig`."""
        if auth in ("token-file", "exec"):
            self._token_files.append(token_path(path))
        return write_kubeconfig(path, self.url, self.files, self.token, auth, context, current)

    def stop(self) -> None:
        """Reset all connections and refuse new ones; objects stay, but watches from before will be too old."""
        self.call("stop")

    def start(self) -> None:
        """Come back on the same port."""
        self.call("start")
