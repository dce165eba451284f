"""The garbage collector while modules are imported."""

import gc

import pytest

from userproxy.cli.importing import uncollected


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
