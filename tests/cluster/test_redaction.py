"""What may be a secret is not shown, and all else stays readable."""

import pytest

from tests.cluster.test_secrets import CANARY, DATA
from userproxy.cluster.redaction import shown_path, without_keys, without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
        ("https://me:pass@10.0.0.1:6443/path", "https://10.0.0.1:6443/path"),
        ("https://me:p@ss/word@10.0.0.1", "https://10.0.0.1"),
        ("me:pass@10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_path_is_shown_and_a_key_is_not() -> None:
    for path in ("/var/lib/kubelet/pki/kubelet-client-current.pem", "../pki/ca.crt", "client.key", "./token"):
        assert shown_path(path) == path
    for key in (CANARY, DATA, "abcdef.0123456789abcdef", "-----BEGIN\nx", "a" * 300 + "/b"):
        assert shown_path(key) == "the file"


def test_what_a_program_says_stays_readable() -> None:
    said = "error: cannot open /var/lib/some-provider/credentials.json: permission denied\nsee https://example.com/help"
    assert without_keys(said) == said.replace("\n", " ")
    assert without_keys(f"token {CANARY} is expired") == "token … is expired"
