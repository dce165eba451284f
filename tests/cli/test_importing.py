"""The garbage collector and TLS while modules are imported."""

import gc
import os
import ssl

import pytest

from userproxy.cli.importing import uncollected, without_authorities


def test_the_collector_is_off_meanwhile_and_then_as_it_was() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize("before", [None, "/etc/ssl/own.pem"])
def test_no_authority_is_read_meanwhile_and_the_environment_is_then_as_it_was(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if before is not None:
        monkeypatch.setenv("SSL_CERT_FILE", before)
    with without_authorities():
        assert ssl.create_default_context().cert_store_stats()["x509_ca"] == 0
    assert os.environ.get("SSL_CERT_FILE") == before
    with pytest.raises(ImportError), without_authorities():
        raise ImportError
    assert os.environ.get("SSL_CERT_FILE") == before
