"""`recsys doctor`: does this machine, with what is installed on it, carry the software?

Reads package metadata and the machine's own tables, and asks fbgemm for results that are known.
It imports none of the other modules, so that it also runs where torch does not.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import metadata
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRIVER_FILE = Path("/proc/driver/nvidia/version")
MEMORY_FILE = Path("/proc/meminfo")
MEMORY_LIMIT_FILE = Path("/sys/fs/cgroup/memory.max")
SHARED_MEMORY = Path("/dev/shm")

# Tested together. In general torch 2.N goes with torchrec and fbgemm 1.(N-5).
TESTED = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm": "1.8.0"}
FBGEMM_PACKAGES = ("fbgemm-gpu-cpu", "fbgemm-gpu")
NEEDED = ("jsonargparse", "lightning", "numpy", "polars", "pyarrow", "pydantic", "ruamel-yaml")

# Below these, real jobs meet trouble: a batch of 4096 examples with histories takes some megabytes,
# an embedding table, its optimiser state and a checkpoint of both take gigabytes.
MIN_MEMORY_GIB = 4.0
MIN_SHARED_MEMORY_GIB = 1.0
MIN_DISK_GIB = 5.0

REINSTALL = "rm -rf .venv && make install"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        ok: True: fine; False: the software will not work; None: it works, but read the advice.
        found: What was found.
        advice: What to do about it; empty where nothing is to be done.
    """

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def diagnose() -> list[Check]:
    """Look at everything; never raises for what it finds."""
    return [
        check_python(),
        check_versions(),
        check_flavour(),
        check_operators(),
        check_lock(),
        check_gpu(),
        check_cpu(),
        check_memory(),
        check_shared_memory(),
        check_working_directory(),
    ]


def check_python() -> Check:
    """The wheels of torch and fbgemm exist for some versions of Python only."""
    found = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Check("Python", True, found)
    advice = "install Python 3.11, then: rm -rf .venv && make install PYTHON=python3.11"
    return Check("Python", False, found, advice)


def check_versions() -> Check:
    """The binaries of torchrec and fbgemm fit one release of torch each."""
    versions = {
        "torch": _version("torch"),
        "torchrec": _version("torchrec"),
        "fbgemm": next(iter(_installed_fbgemm().values()), None),
    }
    name = "torch, torchrec, fbgemm"
    missing = [package for package, version in versions.items() if version is None]
    found = ", ".join(f"{package} {version or 'missing'}" for package, version in versions.items())
    if missing:
        return Check(name, False, found, "make install")
    numbers = {package: _public(version or "") for package, version in versions.items()}
    if numbers == TESTED:
        return Check(name, True, found)
    minor = int((re.match(r"2\.(\d+)", numbers["torch"]) or ["", "0"])[1])
    partner = f"1.{minor - 5}."
    if minor >= 10 and all(numbers[p].startswith(partner) for p in ("torchrec", "fbgemm")):
        tested = ", ".join(f"{package} {version}" for package, version in TESTED.items())
        return Check(name, None, found, f"these fit together, but tested were {tested}")
    advice = (
        "these do not fit together: torch 2.N goes with torchrec and fbgemm 1.(N-5); "
        f"{REINSTALL}, and never `pip install` torchrec without --no-deps"
    )
    return Check(name, False, found, advice)


def check_flavour() -> Check:
    """The builds of torch and fbgemm must be of one kind, and fit the machine."""
    name = "flavour"
    fbgemm = _installed_fbgemm()
    if len(fbgemm) > 1:
        advice = f"they overwrite each other's files, so neither is whole; {REINSTALL}"
        return Check(name, False, " and ".join(fbgemm) + " both installed", advice)
    torch_version = _version("torch")
    if torch_version is None or not fbgemm:
        return Check(name, False, "torch or fbgemm is missing", "make install")
    [(package, version)] = fbgemm.items()
    # PyTorch's own index serves the CPU build under the name fbgemm-gpu, as 1.8.0+cpu.
    fbgemm_kind = "cpu" if package == "fbgemm-gpu-cpu" or version.endswith("+cpu") else "cuda"
    torch_kind = _torch_kind(torch_version)
    driver = _driver()
    found = f"torch for {torch_kind}, fbgemm for {fbgemm_kind}, NVIDIA driver {driver or 'absent'}"
    if torch_kind != fbgemm_kind:
        wanted = "cuda" if driver else "cpu"
        advice = f"rm -rf .venv && make install FLAVOUR={wanted}"
        return Check(name, False, found, f"take both of one kind: {advice}")
    if driver and torch_kind == "cpu":
        advice = "the GPU stays idle; to use it: make install FLAVOUR=cuda"
        return Check(name, None, found, advice)
    if not driver and torch_kind == "cuda":
        advice = "nothing here can run CUDA; smaller and tested: make install FLAVOUR=cpu"
        return Check(name, None, found, advice)
    return Check(name, True, found)


def check_operators() -> Check:
    """The library of fbgemm loads into torch and computes results that are known."""
    name = "fbgemm operators"
    try:
        with redirect_stderr(StringIO()):  # it warns of versions, which are checked above
            wrong = _wrong_results()
    except Exception as error:  # whatever a broken binary raises is the finding
        found = f"{type(error).__name__}: {_first_line(str(error))}"
        return Check(name, False, found, f"see the lines above first, then: {REINSTALL}")
    if wrong:
        return Check(name, False, "; ".join(wrong), REINSTALL)
    return Check(name, True, "loaded, known results reproduced")


def check_lock() -> Check:
    """Everything else is what the lock names; without a checkout, at least there."""
    name = "other packages"
    missing = [package for package in NEEDED if _version(package) is None]
    if missing:
        return Check(name, False, f"missing: {', '.join(missing)}", "make install")
    flavour = "cuda" if "fbgemm-gpu" in _installed_fbgemm() else "cpu"
    lock = ROOT / "requirements" / f"{flavour}.txt"
    if not lock.exists():
        return Check(name, True, "all there (no lock to compare with)")
    pins = re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), flags=re.MULTILINE)
    different = []
    for package, pinned in pins:
        installed = _version(package)
        if _public(installed or "") != pinned:
            different.append(f"{package} {installed or 'missing'} (lock: {pinned})")
    if not different:
        return Check(name, True, f"{len(pins)} as in requirements/{lock.name}")
    rest = f" and {len(different) - 5} more" if len(different) > 5 else ""
    advice = (
        f"the tests ran with the lock; .venv/bin/pip install --no-deps -r requirements/{lock.name}"
    )
    return Check(name, None, ", ".join(different[:5]) + rest, advice)


def check_gpu() -> Check:
    """GPUs that torch can use."""
    driver = _driver()
    try:
        import torch

        built_for, usable = torch.version.cuda, torch.cuda.is_available()
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except Exception as error:  # as above
        found = f"torch does not say ({type(error).__name__})"
        return Check("GPU", None, found, "mend torch first")
    if usable:
        each = ", ".join(f"{d.name} {d.total_memory / 2**30:.0f} GiB" for d in devices)
        return Check("GPU", True, f"{each}, driver {driver}")
    if driver and built_for:
        advice = (
            f"the driver must carry CUDA {built_for}: update it; in a container pass the GPUs on "
            "(docker run --gpus all); look at CUDA_VISIBLE_DEVICES"
        )
        return Check("GPU", False, f"driver {driver}, but torch sees no GPU", advice)
    return Check("GPU", True, "none that torch can use, training runs on the CPU")


def check_cpu() -> Check:
    """Cores this process may use."""
    return Check("CPU", True, f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}")


def check_memory() -> Check:
    """Memory still free, within the container's limit."""
    available = re.search(r"^MemAvailable:\s+(\d+) kB", MEMORY_FILE.read_text(), re.MULTILINE)
    assert available is not None
    free_gib = int(available[1]) / 2**20
    limit = MEMORY_LIMIT_FILE.read_text().strip() if MEMORY_LIMIT_FILE.exists() else "max"
    if limit != "max":
        free_gib = min(free_gib, int(limit) / 2**30)
    found = f"{free_gib:.1f} GiB free"
    if free_gib >= MIN_MEMORY_GIB:
        return Check("memory", True, found)
    advice = f"below {MIN_MEMORY_GIB:.0f} GiB only small tables fit; end other programs"
    return Check("memory", None, found, advice)


def check_shared_memory() -> Check:
    """Data workers hand batches over through shared memory."""
    if not SHARED_MEMORY.exists():
        advice = "mount it (docker run --shm-size=2g), or set num_workers to 0"
        return Check("/dev/shm", None, "absent", advice)
    gib = shutil.disk_usage(SHARED_MEMORY).total / 2**30
    if gib >= MIN_SHARED_MEMORY_GIB:
        return Check("/dev/shm", True, f"{gib:.1f} GiB")
    advice = "data workers may die of it: docker run --shm-size=2g, or set num_workers to 0"
    return Check("/dev/shm", None, f"{gib:.2f} GiB", advice)


def check_working_directory() -> Check:
    """Runs, logs and checkpoints are written below it."""
    here = Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        advice = "change to a directory that you may write to"
        return Check("working directory", False, f"{here}: {error.strerror}", advice)
    free_gib = shutil.disk_usage(here).free / 2**30
    found = f"writable, {free_gib:.1f} GiB free"
    if free_gib >= MIN_DISK_GIB:
        return Check("working directory", True, found)
    advice = f"checkpoints may fill it: keep {MIN_DISK_GIB:.0f} GiB free, or run elsewhere"
    return Check("working directory", None, found, advice)


def main(argv: Sequence[str] = ()) -> int:
    """Print the findings.

    Args:
        argv: Arguments after the verb; it takes none.

    Returns:
        0, or 1 where a check failed.
    """
    if argv:
        print(f"doctor: takes no arguments, got {' '.join(argv)}", file=sys.stderr)
        return 2
    checks = diagnose()
    _show(checks)
    return int(any(check.ok is False for check in checks))


def _show(checks: list[Check]) -> None:
    signs = {True: "ok", None: "note", False: "FAULT"}
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for check in checks:
            print(f"{signs[check.ok]:5}  {check.name}: {check.found}")
    else:
        styles = {True: "green", None: "yellow", False: "bold red"}
        table = Table(box=None, pad_edge=False)
        for heading in ("", "check", "found"):
            table.add_column(heading, overflow="fold")
        for check in checks:
            sign = Text(signs[check.ok], style=styles[check.ok])
            table.add_row(sign, Text(check.name), Text(check.found))
        Console(highlight=False).print(table)
    # Outside the table, so that commands can be copied whole.
    for check in checks:
        if check.advice:
            print(f"{signs[check.ok]}: {check.name}: {check.advice}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    """Without the local label: 2.13.0+cpu is 2.13.0."""
    return version.partition("+")[0]


def _installed_fbgemm() -> dict[str, str]:
    found = {package: _version(package) for package in FBGEMM_PACKAGES}
    return {package: version for package, version in found.items() if version is not None}


def _torch_kind(version: str) -> str:
    try:
        import torch
    except Exception:  # reported by check_operators; the label is the next best source
        return "cpu" if version.endswith("+cpu") else "cuda"
    return "cuda" if torch.version.cuda else "cpu"


def _driver() -> str | None:
    """Version of the NVIDIA driver; None where there is none."""
    if DRIVER_FILE.exists():
        version = re.search(r"\s(\d+\.\d+[.\d]*)\s", DRIVER_FILE.read_text())
        return version[1] if version else "of unknown version"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return _first_line(answer.stdout) or None


def _wrong_results() -> list[str]:
    """Known answers that the operators miss, on the CPU and on a GPU if there is one."""
    import torch
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    wrong = []
    places = [("cpu", EmbeddingLocation.HOST, ComputeDevice.CPU)]
    if torch.cuda.is_available():
        places.append(("cuda", EmbeddingLocation.DEVICE, ComputeDevice.CUDA))
    for device, location, kind in places:
        lengths = torch.tensor([2, 0, 3], device=device)
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths)
        if offsets.tolist() != [0, 2, 2, 5]:
            wrong.append(f"{device}: cumulative lengths of 2, 0, 3 are {offsets.tolist()}")
        tables = SplitTableBatchedEmbeddingBagsCodegen([(4, 4, location, kind)])
        tables.split_embedding_weights()[0].copy_(torch.arange(16.0).view(4, 4))
        ids = torch.tensor([3, 0, 1, 1, 2], device=device)
        sums = tables(ids, offsets)[:, 0].tolist()
        # First column of the rows is 0, 4, 8, 12: bags {3, 0}, {} and {1, 1, 2}.
        if sums != [12.0, 0.0, 16.0]:
            wrong.append(f"{device}: sums of table rows are {sums}, not 12, 0, 16")
    return wrong


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
