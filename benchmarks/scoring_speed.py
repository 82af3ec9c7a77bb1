"""Scoring raw Parquet beside FuxiCTR's prediction of encoded arrays: rows per second of DCNv2.

    python benchmarks/scoring_speed.py --peer-python ENVIRONMENT/bin/python

FuxiCTR needs an environment of its own; `fuxictr/requirements.txt` says how to make it. Without
--peer-python only this side is measured.

Both sides train the same model for a few steps, then take turns. This side's rows per second are
those of the whole `score`: from the start of the command to its end, with imports, the hashes of
the bundle, reading and encoding raw Parquet, and writing scores. FuxiCTR's are those of `predict`
alone, over ids that are encoded and lie in memory. Ratios are medians over rounds of the ratio
within one.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from peak_memory import PeakMemory
from training_speed import (
    SETTINGS,
    environment_of,
    our_command,
    row,
    run,
    their_command,
    write_data,
)

_REPOSITORY = Path(__file__).resolve().parent.parent
_OURS, _THEIRS = "recsys", "FuxiCTR"


def main() -> None:
    """Run in turns and print the table."""
    options = _options()
    rates: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        num_events = {"train": 40_960, "val": options.events}
        data = write_data(Path(folder) / "data", rows=options.rows, num_events=num_events)
        settings = {**SETTINGS, "model": "DCNv2", "rows": options.rows, "threads": options.threads}
        settings |= {"seconds": 0.0, "seed": 0, "precision": "32-true", "passes": 1}
        run(our_command(data, data / "ours", settings), data / "ours", settings)
        bundle = data / "bundle"
        _recsys(["export", data / "ours" / "run", "--out", bundle, "--unchecked"], options.threads)
        shapes = {f"{_OURS}, {shape}": _Shape.parse(shape) for shape in options.shapes}
        for number in range(options.rounds):
            for name, shape in shapes.items():
                arguments = ["score", bundle, data, "--workers", shape.workers]
                arguments += ["--out", data / f"scores {name} {number}"]
                arguments += ["--precision", shape.precision]
                seconds, num_bytes = _recsys(arguments, shape.threads)
                rates.setdefault(name, []).append(sum(num_events.values()) / seconds)
                peaks[name] = max(peaks.get(name, 0), num_bytes)
            if options.peer_python is not None:
                out = data / f"theirs_{number}"
                command = their_command(options.peer_python.absolute(), data, out, settings)
                rates.setdefault(_THEIRS, []).extend(run(command, out, settings)["rows_per_s"])
            print(f"round {number}: {', '.join(f'{n} {v[-1]:,.0f}' for n, v in rates.items())}")
    print("\n".join(table_lines(rates, peaks)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="Python of FuxiCTR's environment")
    parser.add_argument("--events", type=int, default=4_000_000, help="to score")
    parser.add_argument("--rows", type=int, default=100_000, help="of all ten tables")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of training, and of FuxiCTR")
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=["1x1", "2x1", "1x2"],
        help="workers of `score` x threads, and x bf16 for dense layers in 16 bits",
    )
    return parser.parse_args()


@dataclass(frozen=True)
class _Shape:
    """How `score` runs."""

    workers: int
    threads: int
    precision: str = "float32"

    @classmethod
    def parse(cls, text: str) -> Self:
        workers, threads, *precision = text.split("x")
        return cls(int(workers), int(threads), *precision)


def _recsys(arguments: list[object], threads: int) -> tuple[float, int]:
    """Seconds that a verb took, and the most bytes that it and its workers held at one time."""
    command = [sys.executable, "-m", "recsys", *map(str, arguments)]
    started_s = time.perf_counter()
    with (
        subprocess.Popen(
            command,
            cwd=_REPOSITORY,
            env=environment_of(threads),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        PeakMemory(process.pid) as memory,
    ):
        _, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: ended with code {process.returncode}\n{errors}")
    return time.perf_counter() - started_s, memory.num_bytes


def table_lines(rates: dict[str, list[float]], peaks: dict[str, int]) -> list[str]:
    """The table in Markdown: a row per side, with the ratio to FuxiCTR, and our memory."""
    headings = ["side", "rows/s", "times FuxiCTR", "peak memory"]
    lines = [row(headings), row(["---", "---:", "---:", "---:"])]
    theirs = rates.get(_THEIRS, [])
    for name, of_side in rates.items():
        ratios = [a / b for a, b in zip(of_side, theirs, strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios and name != _THEIRS else ""
        peak = f"{peaks[name] / 2**20:,.0f} MiB" if name in peaks else ""
        lines.append(row([name, f"{statistics.median(of_side):,.0f}", ratio, peak]))
    return lines


if __name__ == "__main__":
    main()
