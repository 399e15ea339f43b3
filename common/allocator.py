"""C's heap: array temporaries leave holes in it, which count as memory of the program until they are given back."""

import ctypes
from collections.abc import Callable


def _found() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return trim


_TRIM = _found()


def trim() -> None:
    """Give free pages back to the system: glibc's malloc_trim(3); nothing where C's library is another one.

    It takes some milliseconds for each hundred megabytes, without the GIL.
    """
    if _TRIM is not None:
        _TRIM(0)
