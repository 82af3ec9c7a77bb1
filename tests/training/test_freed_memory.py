"""Memory that a step frees is that of the next, without a page to be cleared again."""

import os
import platform
import subprocess
import sys

import pytest

# Each tensor has 16,384 pages of 4 KiB. The first few are new ones, until small pieces between
# them have found their places.
STEPS = """
import resource
import torch
from recsys.training.freed_memory import keep_freed_memory
print(keep_freed_memory())
for _ in range(20):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def kept_and_faults(**settings):
    left_out = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    printed = subprocess.run(
        [sys.executable, "-c", STEPS],
        env=left_out | settings,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    kept, faults = printed.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_tensors_are_used_again():
    kept, faults = kept_and_faults()
    assert kept == "True"
    assert faults < 2_000


def test_settings_of_the_environment_are_kept():
    kept, _ = kept_and_faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False"
