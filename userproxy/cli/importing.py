"""Imports of many modules at once."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CERTIFICATES: Final = "SSL_CERT_FILE"
"""Where OpenSSL looks for the file of certificates of authorities, instead of where the system has it."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Within this the garbage collector is off: what modules make stays, and looking through it takes time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def without_authorities() -> Iterator[None]:
    """Within this no certificates of authorities are read from the system's file.

    aiohttp makes two TLS contexts when it is imported, which takes 40 ms for that file. Nobody uses them: connections
    to the API server have a context of their own, and these could trust whom the system's directory names at most.
    """
    before = os.environ.get(_CERTIFICATES)
    os.environ[_CERTIFICATES] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CERTIFICATES]
        else:
            os.environ[_CERTIFICATES] = before
