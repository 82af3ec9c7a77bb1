"""Whether training on one GPU gives what a CPU gives, and how fast it is.

    python benchmarks/gpu.py [--device cuda] [--quick] [--out FOLDER]

Below 8 minutes. Each section runs in a process of its own, so that one that fails, or never ends,
is reported and the rest goes on:

* `versions`: of packages, driver and card.
* `reference`, `numbers`: small models trained by the same steps on the CPU and on the device:
  losses of each step and tables side by side; steps begun ahead (`LookAhead`) and not, which must
  give the same to the last bit wherever the device gives the same twice.
* `bandwidth`: what the device's memory does: a copy, and a triad a = b + s c.
* `speed`: DLRM with the largest tables that fit, uniform ids: samples and looked-up bytes per
  second against that bandwidth; steps begun ahead and not, taking turns.
* `host_memory`: the same with smaller tables, on the device and in the memory of the machine.

It writes FOLDER/gpu.json and FOLDER/gpu.md; exit code 1 where a section failed or numbers differ.
`--device cpu --quick` runs all of it at sizes that say nothing, but that the script is whole.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_training import NUM_FIELDS, Case, Sizes, losses_of, samples_per_s, wait, write_inputs

SECTIONS = {
    "versions": 30,
    "reference": 110,
    "numbers": 130,
    "bandwidth": 30,
    "speed": 110,
    "host_memory": 70,
}
"""Seconds after which a section is ended on a GPU: 8 minutes in all."""
PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "lightning", "triton")


FULL = Sizes(20, 32_768, 20, 5, 64, 1 << 30, 100_000_000)
QUICK = Sizes(3, 64, 2, 2, 8, 1 << 20, 500)


CASES = [
    *(Case("dlrm", name) for name in ("sgd", "adagrad", "rowwise_adagrad")),
    Case("dlrm", "adam", on_cpu=False),
    # A CPU rounds to the nearest number, a GPU at random.
    Case("dlrm", row_dtype="fp16", within=2e-3),
    Case("dcnv2"),
    Case("sasrec"),
    Case("dlrm", precision="bf16-mixed", within=2e-2),
    Case("sasrec", precision="bf16-mixed", within=2e-2),
]


def section_reference(sizes: Sizes, device: str, folder: Path) -> dict[str, Any]:
    """Losses on the CPU."""
    return section_numbers(sizes, "cpu", folder, modes=(False,))


def section_numbers(
    sizes: Sizes, device: str, folder: Path, *, modes: tuple[bool, ...] = (False, True, False)
) -> dict[str, Any]:
    """Losses on the device."""
    write_inputs(folder, rows=1000, dim=16)
    found: dict[str, Any] = {}
    for case in CASES:
        if device == "cpu" and not case.on_cpu:
            found[case.name] = {"skipped": "no such kernel on a CPU"}
            continue
        try:
            options = {"device": device, "steps": sizes.steps}
            runs = [losses_of(case, folder, looks_ahead=mode, **options) for mode in modes]
            pairs = zip(runs[0]["losses"], runs[len(runs) // 2]["losses"], strict=True)
            found[case.name] = {
                **runs[0],
                "ahead_is_equal": runs[0] == runs[len(runs) // 2],
                "ahead_gap": max(abs(one - other) for one, other in pairs),
                "is_repeatable": runs[0] == runs[-1],
            }
        except Exception:
            found[case.name] = {"error": traceback.format_exc(limit=-3)}
    return found


# --------------------------------------------------------------------------------------- speed
def section_bandwidth(sizes: Sizes, device: str, folder: Path) -> dict[str, Any]:
    """Bytes that are read and written a second: the best of several times."""
    import torch

    numbers = sizes.copy_bytes // 4
    a, b, c = (torch.ones(numbers, device=device) for _ in range(3))

    def best(step: Callable[[], Any], *, arrays: int) -> float:
        times = []
        for _ in range(10):
            wait(device)
            start = time.perf_counter()
            step()
            wait(device)
            times.append(time.perf_counter() - start)
        return arrays * sizes.copy_bytes / min(times)

    return {
        "copy_bytes_per_s": best(lambda: a.copy_(b), arrays=2),
        "triad_bytes_per_s": best(lambda: torch.add(b, c, alpha=3.0, out=a), arrays=3),
    }


def free_bytes(device: str) -> int:
    """Memory that tables may take."""
    import torch

    return torch.cuda.mem_get_info()[0] if device == "cuda" else 1 << 30


def looked_up_bytes(dim: int) -> int:
    """What an example moves: rows are read, then read and written; so is the number of Adagrad."""
    return NUM_FIELDS * (3 * dim * 4 + 2 * 4)


def section_speed(sizes: Sizes, device: str, folder: Path) -> dict[str, Any]:
    """DLRM with the largest tables that fit, half of the time with steps begun ahead."""
    import gc

    row_bytes = sizes.dim * 4 + 4
    rows = min(sizes.most_rows, int(0.6 * free_bytes(device)) // (NUM_FIELDS * row_bytes))
    rates: dict[bool, list[float]] = {False: [], True: []}
    for mode in (False, True, True, False):
        rates[mode] += samples_per_s(sizes, device, folder, rows=rows, looks_ahead=mode, host=False)
        gc.collect()
    plain, ahead = (statistics.median(rates[mode]) for mode in (False, True))
    return {
        "rows_of_a_table": rows,
        "table_bytes": rows * NUM_FIELDS * row_bytes,
        "samples_per_s": plain,
        "samples_per_s_ahead": ahead,
        "ahead_ratio": ahead / plain,
        "looked_up_bytes_per_s": ahead * looked_up_bytes(sizes.dim),
        "turns": {"plain": rates[False], "ahead": rates[True]},
    }


def section_host_memory(sizes: Sizes, device: str, folder: Path) -> dict[str, Any]:
    """Tables on the device against the same in the memory of the machine."""
    # Far below what the card has free: more managed memory than that can hang it.
    row_bytes = sizes.dim * 4 + 4
    rows = min(sizes.most_rows, int(0.1 * free_bytes(device)) // (NUM_FIELDS * row_bytes))
    options = {"rows": rows, "looks_ahead": True}
    on_device = statistics.median(samples_per_s(sizes, device, folder, host=False, **options))
    found = {"rows_of_a_table": rows, "samples_per_s_on_device": on_device}
    if device == "cpu":
        return {**found, "skipped": "a CPU has no memory beside its own"}
    beside = statistics.median(samples_per_s(sizes, device, folder, host=True, **options))
    return {**found, "samples_per_s_beside": beside, "ratio": beside / on_device}


def section_versions(sizes: Sizes, device: str, folder: Path) -> dict[str, Any]:
    """Of packages, driver and card."""
    import torch

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory_bytes": str(card.total_memory)}
        found |= {"cuda": str(torch.version.cuda)}
    return found


RUNS: Mapping[str, Callable[[Sizes, str, Path], dict[str, Any]]] = {
    "versions": section_versions,
    "reference": section_reference,
    "numbers": section_numbers,
    "bandwidth": section_bandwidth,
    "speed": section_speed,
    "host_memory": section_host_memory,
}


# -------------------------------------------------------------------------------------- report
def run_section(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a section found, or why it did not; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--section", name, "--device", options.device]
        command += ["--out", str(file), *(["--quick"] if options.quick else [])]
        limit_s = SECTIONS[name] if options.device == "cuda" else None
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"ended after {SECTIONS[name]} s"}
        if ran.returncode or not file.is_file():
            return {"error": "\n".join(ran.stderr.splitlines()[-15:])}
        return json.loads(file.read_text())


def compared(reference: dict[str, Any], numbers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What to say of each case of `numbers`, by its name, and whether it is right."""
    if "error" in reference or "error" in numbers:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for case in CASES:
        here, there = reference[case.name], numbers[case.name]
        if "losses" not in there:
            said = there.get("skipped") or there["error"].splitlines()[-1]
            found[case.name] = {"said": said, "is_right": "skipped" in there}
            continue
        is_number = all(map(math.isfinite, there["losses"]))
        if "losses" not in here:
            gap, is_right = None, is_number and "skipped" in here
        else:
            pairs = zip(here["losses"], there["losses"], strict=True)
            gap = max(abs(one - other) for one, other in pairs)
            tables = max(
                abs(there["squares"][name] / square - 1) for name, square in here["squares"].items()
            )
            # Tables are sums of squares: as close as the losses, relative to their size.
            is_right = gap <= case.within and tables <= 10 * case.within
        may_differ = not there["is_repeatable"] and there["ahead_gap"] <= case.within
        gap_said = "no reference" if gap is None else f"{gap:.1e}"
        ahead = "equal" if there["ahead_is_equal"] else f"{there['ahead_gap']:.1e} apart"
        again = "" if there["is_repeatable"] else "; it does not repeat itself either"
        found[case.name] = {
            "said": f"{gap_said}; ahead: {ahead}{again}",
            "is_right": is_right and (there["ahead_is_equal"] or may_differ),
        }
    return found


def markdown(report: dict[str, Any]) -> list[str]:
    """Tables for `README.md`."""
    versions, sections = report["versions"], report["sections"]
    card = versions.get("card", report["device"])
    packages = ", ".join(f"{k} {v}" for k, v in versions.items() if k not in ("card", "error"))
    quick = " (quick: no measurement)" if report["quick"] else ""
    lines = [f"{report['date']}, {card}{quick}; {packages}", ""]
    lines += [
        "| model, optimiser, precision | largest gap to the CPU | |",
        "|---|---|---|",
    ]
    for name, said in report["compared"].items():
        lines.append(f"| {name} | {said['said']} | {'right' if said['is_right'] else 'WRONG'} |")
    lines += ["", "| measured | value |", "|---|---:|"]
    for section in ("bandwidth", "speed", "host_memory"):
        for key, value in sections[section].items():
            if isinstance(value, int | float):
                lines.append(f"| {section}: {key} | {value:,.4g} |")
    moved = sections["speed"].get("looked_up_bytes_per_s")
    triad = sections["bandwidth"].get("triad_bytes_per_s")
    if moved and triad:
        lines.append(f"| speed: share of the triad's bandwidth | {moved / triad:.1%} |")
    for name, section in sections.items():
        for word in ("error", "skipped"):
            if word in section:
                lines += ["", f"{name}: {word}: {str(section[word]).splitlines()[-1]}"]
    return lines


def main() -> int:
    """Run all sections, or one of them here; gives the exit code."""
    options = _options()
    sizes = QUICK if options.quick else FULL
    if options.section:
        with tempfile.TemporaryDirectory() as folder:
            found = RUNS[options.section](sizes, options.device, Path(folder))
        options.out.write_text(json.dumps(found))
        return 0
    sections: dict[str, dict[str, Any]] = {}
    for name in SECTIONS:
        start = time.perf_counter()
        sections[name] = run_section(name, options)
        state = "failed" if "error" in sections[name] else "done"
        print(f"{name}: {state} after {time.perf_counter() - start:.0f} s", flush=True)
    report = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": options.device,
        "quick": options.quick,
        "versions": sections["versions"],
        "compared": compared(sections["reference"], sections["numbers"]),
        "sections": sections,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = markdown(report)
    (options.out / "gpu.md").write_text("\n".join(lines) + "\n")
    print("\n".join(["", *lines]))
    is_right = report["compared"] and all(x["is_right"] for x in report["compared"].values())
    return 0 if is_right and not any("error" in x for x in sections.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="FOLDER")
    parser.add_argument("--section", choices=[*SECTIONS], help="run this one here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
