"""Memory of the C library that a training run on CPUs gives back and takes again thousands of times a minute."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed blocks of up to a gigabyte instead of handing them back to the system.

    Activations come and go with every operation.  By default each large one is mapped afresh, and the system fills it
    with zeros page by page: a tenth of the time of training on CPUs.  To be called before anything large is allocated;
    the process keeps the most that it has ever used.

    Returns:
      Whether this C library (glibc) can be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_ARENA_MAX, 1))
    return all([mallopt(name, value) == 1 for name, value in settings])
