"""The floating-point mode of the processor."""

import ctypes

_LEAST_NORMAL = 2.2250738585072014e-308
_DEFAULT_ENVIRONMENT = ctypes.c_void_p(-1)
"""FE_DFL_ENV of glibc and musl."""


def flushes_subnormals() -> bool:
    """Whether this thread computes zero where IEEE 754 has a subnormal number."""
    return _LEAST_NORMAL / float(2) == 0.0


def keep_subnormals() -> None:
    """Put this thread, and those it starts from now on, back into IEEE 754's mode if something took it out.

    A library that was linked with -ffast-math flushes subnormals to zero from the moment it is loaded: numbers near
    5e-324 are then lost in reading, computing and printing. Wheels of yarl for 32-bit ARM are linked so; therefore
    call this after the imports of a program, before its threads.
    """
    if flushes_subnormals():
        ctypes.CDLL("libm.so.6").fesetenv(_DEFAULT_ENVIRONMENT)
