"""Errors of the API with the Status object that a real API server sends for each."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.lab.apiserver.resources import Resource

_REASONS = {
    400: ("BadRequest", "the server rejected our request for an unknown reason"),
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden"),
    404: ("NotFound", "the server could not find the requested resource"),
    405: ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
    409: ("Conflict", "the server reported a conflict"),
    410: ("Expired", "The resourceVersion for the provided list is too old."),
    415: ("UnsupportedMediaType", "the body of the request was in an unknown format"),
    422: ("Invalid", "the server rejected our request due to an error in our request"),
    429: ("TooManyRequests", "Too many requests, please try again later."),
    500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
    502: ("", "bad gateway"),
    503: ("ServiceUnavailable", "apiserver is shutting down"),
    504: ("Timeout", "the server was unable to return a response in the time allotted"),
}


class ApiError(Exception):
    """An answer that is an error. `retry_after` is in seconds and also becomes the header."""

    def __init__(
        self,
        code: int,
        message: str = "",
        *,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
        continue_token: str = "",
    ) -> None:
        usual_reason, usual_message = _REASONS.get(code, ("", f"an error on the server ({code})"))
        self.code = code
        self.retry_after = retry_after
        self._reason = usual_reason if reason is None else reason
        self._message = message or usual_message
        self._details = dict(details or {}) | ({} if retry_after is None else {"retryAfterSeconds": retry_after})
        self._continue = continue_token
        super().__init__(self._message)

    def status(self) -> dict[str, Any]:
        """The Status object."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self._continue} if self._continue else {},
            "status": "Failure",
            "message": self._message,
        }
        if self._reason:
            body["reason"] = self._reason
        if self._details:
            body["details"] = self._details
        return body | {"code": self.code}


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, f'{resource.qualified} "{name}" not found', details=_details(resource, name))


def already_exists(resource: Resource, name: str) -> ApiError:
    message = f'{resource.qualified} "{name}" already exists'
    return ApiError(409, message, reason="AlreadyExists", details=_details(resource, name))


def conflict(resource: Resource, name: str) -> ApiError:
    message = (
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": the object has been modified;'
        " please apply your changes to the latest version and try again"
    )
    return ApiError(409, message, details=_details(resource, name))


def forbidden(resource: Resource, verb: str, user: str, namespace: str = "", name: str = "") -> ApiError:
    """What RBAC says, up to the words of the scope."""
    scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    which = f'{resource.qualified} "{name}"' if name else resource.qualified
    message = (
        f'{which} is forbidden: User "{user}" cannot {verb} resource "{resource.plural}"'
        f' in API group "{resource.group}" {scope}'
    )
    return ApiError(403, message, details=_details(resource, name))


def too_old(revision: int, oldest: int) -> ApiError:
    return ApiError(410, f"too old resource version: {revision} ({oldest})")


def too_large(revision: int, current: int) -> ApiError:
    """The client has seen a newer state than this server: it is to come back in a second."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {revision}, current: {current}"
    return ApiError(504, message, details={"causes": [cause]}, retry_after=1)


def invalid_options(field: str, complaint: str) -> ApiError:
    """A list option that is not allowed as given, or not without another."""
    message = f'ListOptions.meta.k8s.io "" is invalid: {field}: {complaint}'
    cause = {"reason": "FieldValueForbidden", "message": complaint, "field": field}
    return ApiError(422, message, details={"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]})


def invalid(kind: str, name: str, complaints: Sequence[tuple[str, str]]) -> ApiError:
    """An object that breaks rules: the field of each, and what is wrong with it."""
    causes = [{"reason": "FieldValueInvalid", "message": text, "field": field} for field, text in complaints]
    listed = ", ".join(f"{field}: {text}" for field, text in complaints)
    return ApiError(
        422, f'{kind} "{name}" is invalid: {listed}', details={"name": name, "kind": kind, "causes": causes}
    )


def _details(resource: Resource, name: str) -> dict[str, str]:
    details = {"name": name, "group": resource.group, "kind": resource.plural}
    return {key: value for key, value in details.items() if value}
