"""Who is let in, and what is said of a request's head."""

from itertools import count

import pytest

from userproxy.dashboard.admission import HEADERS, Admission

OURS = {"Host": "127.0.0.1:8080"}
CHANGE = {**OURS, "Origin": "http://127.0.0.1:8080", "Content-Type": "application/json"}


@pytest.fixture
def admission() -> Admission:
    numbers = count(1)
    return Admission(8080, lambda: f"secret-{next(numbers)}")


def test_a_token_opens_one_session(admission: Admission) -> None:
    assert admission.link == "http://127.0.0.1:8080/#token=secret-1"
    assert admission.exchange("secret-1") == "secret-2"
    assert admission.knows("secret-2")
    assert admission.exchange("secret-1") is None


@pytest.mark.parametrize("token", ["", "secret", "secret-11", "None", "sécret-1", "\udcff"])
def test_another_token_opens_none_and_spoils_nothing(admission: Admission, token: str) -> None:
    assert admission.exchange(token) is None
    assert admission.exchange("secret-1") == "secret-2"


@pytest.mark.parametrize("session", ["", "secret-1", "secret-3", "None"])
def test_other_sessions_are_not_known(admission: Admission, session: str) -> None:
    assert not admission.knows(session)
    admission.exchange("secret-1")
    assert not admission.knows(session)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", OURS),
        ("GET", {"Host": "localhost:8080"}),
        ("GET", {**OURS, "Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"}),
        ("GET", {**OURS, "Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8080"}),
        ("POST", CHANGE),
        ("POST", {**CHANGE, "Content-Type": "application/json; charset=utf-8"}),
    ],
)
def test_the_page_itself_may_ask(admission: Admission, method: str, headers: dict[str, str]) -> None:
    assert admission.refusal(method, headers) is None


@pytest.mark.parametrize(
    ("method", "headers", "word"),
    [
        ("GET", {}, "name"),
        ("GET", {"Host": "127.0.0.1"}, "name"),
        ("GET", {"Host": "127.0.0.1:80"}, "name"),
        ("GET", {"Host": "rebound.example:8080"}, "name"),
        ("GET", {"Host": "127.0.0.1:8080.example"}, "name"),
        ("GET", {"Host": "[::1]:8080"}, "name"),
        ("GET", {**OURS, "Origin": "http://evil.example"}, "site"),
        ("GET", {**OURS, "Origin": "null"}, "site"),
        ("GET", {**OURS, "Origin": "http://localhost:8080"}, "site"),
        ("GET", {**OURS, "Origin": "https://127.0.0.1:8080"}, "site"),
        ("GET", {**OURS, "Sec-Fetch-Site": "cross-site"}, "site"),
        ("GET", {**OURS, "Sec-Fetch-Site": "same-site"}, "site"),
        ("GET", {**OURS, "Sec-Fetch-Dest": "iframe"}, "inside"),
        ("GET", {**OURS, "Sec-Fetch-Dest": "object"}, "inside"),
        ("POST", OURS, "site"),
        ("POST", {**CHANGE, "Origin": "http://127.0.0.1:9090"}, "site"),
        ("POST", {**CHANGE, "Content-Type": "text/plain"}, "JSON"),
        ("POST", {key: value for key, value in CHANGE.items() if key != "Content-Type"}, "JSON"),
        ("DELETE", OURS, "site"),
    ],
)
def test_others_may_not(admission: Admission, method: str, headers: dict[str, str], word: str) -> None:
    refused = admission.refusal(method, headers)
    assert refused is not None
    assert word in refused


def test_no_answer_may_be_kept_framed_or_run_anything_else() -> None:
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert HEADERS["Cache-Control"] == "no-store"
    assert HEADERS["X-Frame-Options"] == "DENY"
    assert HEADERS["X-Content-Type-Options"] == "nosniff"
    assert HEADERS["Referrer-Policy"] == "no-referrer"
