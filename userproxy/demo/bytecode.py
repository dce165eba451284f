"""What Python has compiled, for programs that are started again and again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Final

_FOLDER: Final = "PYTHONPYCACHEPREFIX"
_NOWHERE: Final = "PYTHONDONTWRITEBYTECODE"


@contextmanager
def kept_bytecode() -> Iterator[None]:
    """Within this, Python programs that we start keep what they compile in a folder of their own, and find it there.

    Otherwise each start may compile 800 modules, which is half the CPU of its imports: the environment may say that
    nothing is to be kept, or files were copied and their times no longer match what was compiled of them. `pip
    install` compiles all, so this is how userproxy starts for those who use it. A folder that is named already is used.
    """
    if _FOLDER in os.environ:
        yield
        return
    before = os.environ.pop(_NOWHERE, None)
    with TemporaryDirectory(prefix="userproxy-bytecode-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]
            if before is not None:
                os.environ[_NOWHERE] = before
