"""Freed memory stays with the process: in one of its own, since the setting is the process's."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource
from ghn_jax.runtime import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults_of_64_mib():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 << 20)
    libc.memset(block, 1, 64 << 20)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_64_mib()
before = faults_of_64_mib()
assert keep_freed_memory()
faults_of_64_mib()
print(before, faults_of_64_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_memory_that_was_freed_is_used_again():
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    before, after = map(int, output.stdout.split())
    assert before >= 32 and after <= 2  # 32 huge pages, or 16,384 small ones
