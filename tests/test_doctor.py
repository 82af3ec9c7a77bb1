import re
import shutil
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from recsys import doctor
from recsys.doctor import Check

CPU = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}
CUDA = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}
GIB = 2**30


@pytest.fixture
def install(monkeypatch):
    """Pretend that these packages, and no others, are installed."""

    def pretend(packages):
        def version(package):
            if package not in packages:
                raise metadata.PackageNotFoundError(package)
            return packages[package]

        names = SimpleNamespace(version=version, PackageNotFoundError=metadata.PackageNotFoundError)
        monkeypatch.setattr(doctor, "metadata", names)

    return pretend


@pytest.fixture
def machine(monkeypatch):
    """Pretend a driver, and a torch built for a kind."""

    def pretend(*, driver=None, torch_for="cpu", num_gpus=0):
        monkeypatch.setattr(doctor, "_driver", lambda: driver)
        gpu = SimpleNamespace(name="H100", total_memory=80 * GIB)
        cuda = SimpleNamespace(
            is_available=lambda: num_gpus > 0,
            device_count=lambda: num_gpus,
            get_device_properties=lambda _: gpu,
        )
        version = SimpleNamespace(cuda="13.0" if torch_for == "cuda" else None)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, version=version))

    return pretend


def test_this_installation_is_sound():
    checks = {check.name: check for check in doctor.diagnose()}
    for name in ("Python", "torch, torchrec, fbgemm", "fbgemm operators", "working directory"):
        assert checks[name].ok is True, checks[name]
    assert all(check.found for check in checks.values())
    assert all(bool(check.advice) == (check.ok is not True) for check in checks.values())


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 11, 0), True), ((3, 10, 9), False), ((3, 14, 0), False)]
)
def test_python(monkeypatch, version, ok):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    check = doctor.check_python()
    assert check.ok is ok
    assert ok or "make install PYTHON=python3.11" in check.advice


@pytest.mark.parametrize(
    ("packages", "ok", "advice"),
    [
        (CPU, True, ""),
        (CUDA, True, ""),
        (
            CPU | {"torch": "2.14.0", "torchrec": "1.9.0", "fbgemm-gpu-cpu": "1.9.1"},
            None,
            "tested were torch 2.13.0",
        ),
        (CPU | {"torchrec": "1.9.0"}, False, "torch 2.N goes with torchrec and fbgemm 1.(N-5)"),
        (CPU | {"torch": "2.15.0"}, False, "do not fit together"),
        (CPU | {"torch": "3.0.0"}, False, "do not fit together"),
        (CPU | {"torch": "2.4.0", "torchrec": "1.8.0"}, False, "do not fit together"),
        ({"torch": "2.13.0", "torchrec": "1.8.0"}, False, "make install"),
        ({}, False, "make install"),
    ],
)
def test_versions(install, packages, ok, advice):
    install(packages)
    check = doctor.check_versions()
    assert check.ok is ok
    assert advice in check.advice
    assert bool(advice) == bool(check.advice)


def test_a_missing_package_is_named(install):
    install({"torch": "2.13.0", "torchrec": "1.8.0"})
    assert doctor.check_versions().found == "torch 2.13.0, torchrec 1.8.0, fbgemm missing"


@pytest.mark.parametrize(
    ("packages", "torch_for", "driver", "ok", "advice"),
    [
        (CPU, "cpu", None, True, ""),
        (CUDA, "cuda", "580.65", True, ""),
        (CPU, "cpu", "580.65", None, "make install FLAVOUR=cuda"),
        (CUDA, "cuda", None, None, "make install FLAVOUR=cpu"),
        (CPU, "cuda", "580.65", False, "rm -rf .venv && make install FLAVOUR=cuda"),
        (CUDA, "cpu", None, False, "rm -rf .venv && make install FLAVOUR=cpu"),
        # PyTorch's own index names the CPU build so.
        (CPU | {"fbgemm-gpu-cpu": None, "fbgemm-gpu": "1.8.0+cpu"}, "cpu", None, True, ""),
        (CPU | CUDA, "cpu", None, False, "overwrite each other's files"),
        ({}, "cpu", None, False, "make install"),
    ],
)
def test_flavour(install, machine, packages, torch_for, driver, ok, advice):
    install({name: version for name, version in packages.items() if version})
    machine(driver=driver, torch_for=torch_for)
    check = doctor.check_flavour()
    assert check.ok is ok
    assert advice in check.advice
    assert bool(advice) == bool(check.advice)


@pytest.mark.parametrize(("label", "kind"), [("2.13.0+cpu", "cpu"), ("2.13.0", "cuda")])
def test_flavour_where_torch_cannot_be_imported(install, monkeypatch, label, kind):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(doctor, "_driver", lambda: None)
    install(CPU | {"torch": label})
    assert doctor.check_flavour().found.startswith(f"torch for {kind}, fbgemm for cpu")


def test_torch_that_cannot_be_imported_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    check = doctor.check_operators()
    assert check.ok is False
    assert check.found.startswith("ModuleNotFoundError: import of torch halted")
    assert "make install" in check.advice
    assert doctor.check_gpu().found == "torch does not say (ModuleNotFoundError)"
    assert len(doctor.diagnose()) == 10


def test_operators_that_compute_nonsense_are_reported(monkeypatch):
    import fbgemm_gpu  # noqa: F401, makes the operators known
    import torch

    monkeypatch.setattr(
        torch.ops.fbgemm, "asynchronous_complete_cumsum", lambda _: torch.tensor([0, 1, 3, 5])
    )
    check = doctor.check_operators()
    assert check.ok is False
    assert check.found.startswith("cpu: cumulative lengths of 2, 0, 3 are [0, 1, 3, 5]")
    # Bags {3}, {0, 1} and {1, 2} of rows that begin with 0, 4, 8, 12.
    assert "cpu: sums of table rows are [12.0, 4.0, 12.0], not 12, 0, 16" in check.found


@pytest.mark.parametrize(
    ("installed", "ok", "found"),
    [
        ({"numpy": "2.4.6", "torch": "2.13.0+cpu"}, True, "2 as in requirements/cpu.txt"),
        ({"numpy": "2.5.0", "torch": "2.13.0"}, None, "numpy 2.5.0 (lock: 2.4.6)"),
        ({"numpy": "2.4.6"}, None, "torch missing (lock: 2.13.0)"),
    ],
)
def test_lock(install, monkeypatch, tmp_path, installed, ok, found):
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "cpu.txt").write_text("# made\nnumpy==2.4.6\ntorch==2.13.0\n")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    install(dict.fromkeys(doctor.NEEDED, "1") | installed)
    check = doctor.check_lock()
    assert (check.ok, check.found) == (ok, found)
    assert ok or "--no-deps -r requirements/cpu.txt" in check.advice


def test_lock_names_five_differences_and_counts_the_rest(install, monkeypatch, tmp_path):
    (tmp_path / "requirements").mkdir()
    pins = "".join(f"package{number}==1\n" for number in range(8))
    (tmp_path / "requirements" / "cuda.txt").write_text(pins)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    install(dict.fromkeys(doctor.NEEDED, "1") | CUDA)
    assert doctor.check_lock().found.endswith("package4 missing (lock: 1) and 3 more")


def test_without_a_lock_the_needed_packages_count(install, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    install(dict.fromkeys(doctor.NEEDED, "1"))
    assert doctor.check_lock().ok is True
    install({})
    assert doctor.check_lock().ok is False
    assert "polars" in doctor.check_lock().found


@pytest.mark.parametrize(
    ("driver", "torch_for", "num_gpus", "ok", "found"),
    [
        (None, "cpu", 0, True, "training runs on the CPU"),
        ("580.65", "cuda", 2, True, "H100 80 GiB, H100 80 GiB, driver 580.65"),
        ("450.1", "cuda", 0, False, "driver 450.1, but torch sees no GPU"),
    ],
)
def test_gpu(machine, driver, torch_for, num_gpus, ok, found):
    machine(driver=driver, torch_for=torch_for, num_gpus=num_gpus)
    check = doctor.check_gpu()
    assert check.ok is ok
    assert found in check.found
    assert ok or ("must carry CUDA 13.0" in check.advice and "--gpus all" in check.advice)


def test_driver_version_comes_from_the_kernel_or_from_nvidia_smi(monkeypatch, tmp_path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n")
    monkeypatch.setattr(doctor, "DRIVER_FILE", file)
    assert doctor._driver() == "580.65.06"
    file.unlink()
    answer = subprocess.CompletedProcess([], 0, stdout="570.1\n570.1\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: answer)
    assert doctor._driver() == "570.1"

    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(doctor.subprocess, "run", absent)
    assert doctor._driver() is None


@pytest.mark.parametrize(
    ("available_gib", "limit", "ok", "found"),
    [
        (20, None, True, "20.0 GiB free"),
        (20, "max\n", True, "20.0 GiB free"),
        (20, f"{2 * GIB}\n", None, "2.0 GiB free"),
        (1, None, None, "1.0 GiB free"),
    ],
)
def test_memory(monkeypatch, tmp_path, available_gib, limit, ok, found):
    (tmp_path / "meminfo").write_text(
        f"MemTotal: 99 kB\nMemAvailable:  {available_gib * 2**20} kB\n"
    )
    if limit:
        (tmp_path / "limit").write_text(limit)
    monkeypatch.setattr(doctor, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(doctor, "MEMORY_LIMIT_FILE", tmp_path / "limit")
    check = doctor.check_memory()
    assert (check.ok, check.found) == (ok, found)


@pytest.mark.parametrize(("total", "ok"), [(2 * GIB, True), (64 * 2**20, None)])
def test_shared_memory(monkeypatch, tmp_path, total, ok):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=total))
    check = doctor.check_shared_memory()
    assert check.ok is ok
    assert ok or "--shm-size=2g" in check.advice
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "absent")
    assert doctor.check_shared_memory().found == "absent"


def test_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 * GIB))
    check = doctor.check_working_directory()
    assert (check.ok, check.found) == (None, "writable, 1.0 GiB free")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    check = doctor.check_working_directory()
    assert (check.ok, check.found) == (False, f"{tmp_path}: Permission denied")


CHECKS = [
    Check("one", True, "[fine]"),
    Check("two", None, "slow", "wait"),
    Check("three", False, "gone", "run: x"),
]


@pytest.mark.parametrize("has_rich", [True, False])
@pytest.mark.parametrize(("checks", "code"), [(CHECKS, 1), (CHECKS[:2], 0)])
def test_output_and_exit_code(monkeypatch, capsys, has_rich, checks, code):
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(doctor, "diagnose", lambda: checks)
    assert doctor.main([]) == code
    output = capsys.readouterr().out
    assert re.search(r"^ok +one:? +\[fine\]", output, re.MULTILINE)
    assert "note: two: wait" in output.splitlines()
    assert ("FAULT: three: run: x" in output) == bool(code)


def test_arguments_are_refused(capsys):
    assert doctor.main(["--quick"]) == 2
    assert "got --quick" in capsys.readouterr().err
