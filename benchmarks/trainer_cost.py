"""What the whole trainer costs beside a bare loop over the same modules and the same batches.

    OMP_NUM_THREADS=1 python benchmarks/trainer_cost.py [--json figures.json]

`train.py fit` runs from the store as it always does: loading, collating, looking at ids, hooks,
callbacks, logging. After some steps a callback keeps it waiting and goes over the batches of these
steps again, with the same sharded modules and the same optimiser, in a bare loop: zero_grad,
forward, loss, backward, step. So the two take turns in one process; ratios are medians over rounds
of the ratio within one. The first steps of a turn do not count, for their batches were made
beforehand. Processor time is that of all threads of the process.

After the last round the trainer gets clocks in its parts and says what a step spends in each, in
as many turns; their sum is larger by what the clocks take.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from lightning import Callback, LightningModule, Trainer
from trainer_clocks import BESIDE, WAITING, Clocks
from training_speed import environment_of, row, write_data

from recsys.tables.batch_checks import BatchChecks
from recsys.training.task import Task
from recsys.types import Batch

_BENCHMARKS = Path(__file__).resolve().parent
_NUM_IDS, _NUM_ITEMS, _LENGTH = 1_000_000, 5_000, 20
_UNCOUNTED = 10  # twice what the loader makes beforehand
_ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3, "fused": True}}
_MODELS = {
    "DCNv2 400-400-400": {"num_cross_layers": 3, "mlp": [400, 400, 400]},
    "DCNv2 64-32": {"num_cross_layers": 2, "mlp": [64, 32]},
    "SASRec": {"num_blocks": 2, "num_heads": 2, "dropout": 0.2},
}

Report = dict[str, Any]


# ------------------------------------------------------------------------- inside our training
class BareLoop(Callback):
    """Takes turns with the trainer, and stops it after some rounds.

    Args:
        out: Directory for `report.json`.
        rounds: Turns of each side.
        steps: Counted steps of a turn.
    """

    def __init__(self, out: str, *, rounds: int, steps: int) -> None:
        self._out = Path(out)
        self._num_rounds = rounds
        self._num_steps = steps
        self._clocks: Clocks | None = None
        self._batches: list[Batch] = []
        self._started_s = (0.0, 0.0)
        self._rounds: list[Report] = []
        self._parts: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A turn lies within an epoch."""
        self._batches = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx
    ) -> None:
        """Count the step; after a turn of the trainer comes that of the bare loop, or none."""
        self._batches.append(batch)
        counted = len(self._batches) - _UNCOUNTED
        if counted == 0:
            self._started_s = _now()
            if self._clocks is not None:
                self._clocks.start()
        if counted < self._num_steps:
            return
        assert isinstance(pl_module, Task)
        taken_s = _since(self._started_s)
        self._batches, batches = [], self._batches
        if self._clocks is not None:
            self._parts.append(self._clocks.read())
            trainer.should_stop = len(self._parts) == self._num_rounds
            return
        bare_s = _bare_turn(pl_module, batches)
        self._rounds.append({"trainer_s": taken_s, "bare_s": bare_s})
        if len(self._rounds) == self._num_rounds:
            self._clocks = Clocks()
            self._clocks.watch(trainer, pl_module, apart_from=self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report."""
        (self._out / "report.json").write_text(
            json.dumps({"rounds": self._rounds, "parts": self._parts})
        )


def _bare_turn(task: Task, batches: Sequence[Batch]) -> tuple[float, float]:
    """Seconds by the clock and of the processor, of the steps that counted for the trainer."""
    time.sleep(0.1)  # until the loader has made what it makes beforehand
    [optimizer] = task.trainer.optimizers
    replaced = [(BatchChecks, "check"), (BatchChecks, "check_keyed"), (Task, "log_loss")]
    kept = [getattr(owner, name) for owner, name in replaced]
    for owner, name in replaced:
        setattr(owner, name, _nothing)
    started_s = _now()
    for number, batch in enumerate(batches):
        if number == _UNCOUNTED:
            started_s = _now()
        optimizer.zero_grad()
        loss = task.training_step(batch, number)
        assert loss is not None
        loss.backward()
        optimizer.step()
    taken_s = _since(started_s)
    for (owner, name), function in zip(replaced, kept, strict=True):
        setattr(owner, name, function)
    return taken_s


def _nothing(*_: object, **__: object) -> None:
    """Stands for a part that a bare loop does without."""


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(started_s: tuple[float, float]) -> tuple[float, float]:
    clock_s, processor_s = _now()
    return clock_s - started_s[0], processor_s - started_s[1]


# --------------------------------------------------------------------------------- all cases
def main() -> None:
    """Run all cases and print the tables."""
    options = _options()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        data = {
            True: _clicks(Path(folder) / "clicks", num_examples=options.examples),
            False: _sequences(Path(folder) / "sequences", num_users=options.examples),
        }
        for model in options.models:
            for size in options.batch_sizes:
                case = {"model": model, "batch_size": size, "steps": options.steps}
                out = Path(folder) / f"{model} {size}"
                callback = {"out": str(out), "rounds": options.rounds, "steps": options.steps}
                where = data[model.startswith("DCNv2")]
                case |= _run(_experiment(where, case, callback), out)
                cases.append(case)
                print(f"{model}, batch {size}: {ratio(case):.2f}", flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps({"cases": cases}, indent=1))
    print("\n".join(["", *ratio_lines(cases), "", *parts_lines(cases)]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(_MODELS), default=list(_MODELS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1024, 128])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40, help="counted of a turn")
    parser.add_argument("--examples", type=int, default=70_000, help="of an epoch")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--quick", action="store_true", help="a trial, which says nothing of speed")
    options = parser.parse_args()
    if options.quick:
        options.models, options.batch_sizes = ["DCNv2 64-32"], [16]
        options.rounds, options.steps, options.examples = 1, 2, 512
    return options


def _clicks(directory: Path, *, num_examples: int) -> Path:
    """Events with ten ids drawn evenly."""
    return write_data(directory, rows=_NUM_IDS, num_events={"train": num_examples, "val": 2})


def _sequences(directory: Path, *, num_users: int) -> Path:
    """Histories of items drawn evenly, of lengths drawn evenly too."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, _LENGTH + 1, num_users)
    users = np.repeat(np.arange(num_users), lengths)
    items = rng.integers(0, _NUM_ITEMS, len(users))
    events = pl.DataFrame({"user": users, "item": items, "time": np.arange(len(users))})
    events.write_parquet(directory / "events.parquet")
    content = {
        "sources": {"events": "events.parquet"},
        "entity": {"user": "user", "item": "item", "time": "time"},
        "split": {"kind": "leave_one_out"},
        "defaults": {"dim": 64},
        "features": [
            {"name": "item", "kind": "categorical"},
            {"name": "history", "kind": "sequence", "of": "item", "max_length": _LENGTH},
        ],
    }
    (directory / "features.yaml").write_text(json.dumps(content))  # YAML reads JSON
    return directory


def _experiment(data: Path, case: Report, callback: Report) -> Report:
    name, settings = case["model"].split()[0], _MODELS[case["model"]]
    model = {"class_path": name, "init_args": settings}
    if name == "SASRec":
        loss = {"class_path": "SampledSoftmax", "init_args": {"num_negatives": 64}}
        class_path, parts = "SequenceTask", {"encoder": model, "loss": loss}
    else:
        class_path, parts = "RankingTask", {"ranker": model}
    # Sharded tables whatever their size, and nothing but training.
    parts |= {"optimizer": _ADAM, "tables": {"dense_max_bytes": 0}}
    return {
        "data": {
            "features": str(data / "features.yaml"),
            "data_dir": str(data),
            "store": str(data / "store"),
            "batch_size": case["batch_size"],
        },
        "model": {"class_path": class_path, "init_args": parts},
        "run": {"root": callback["out"], "name": "run", "test": False},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1000,
            "limit_val_batches": 0,
            "callbacks": [{"class_path": "trainer_cost.BareLoop", "init_args": callback}],
        },
    }


def _run(experiment: Report, out: Path) -> Report:
    out.mkdir()
    (out / "experiment.yaml").write_text(json.dumps(experiment))  # YAML reads JSON
    command = [sys.executable, "train.py", "fit", "-c", str(out / "experiment.yaml")]
    ran = subprocess.run(
        command,
        cwd=_BENCHMARKS.parent,
        env=environment_of(1),
        capture_output=True,
        text=True,
        check=False,
    )
    if not (out / "report.json").is_file():
        sys.exit(f"{' '.join(command)}: ended with code {ran.returncode}\n{ran.stderr}")
    return json.loads((out / "report.json").read_text())


# ------------------------------------------------------------------------------------ results
def ratio(case: Report, *, of_processor: bool = False) -> float:
    """The trainer's time over that of the bare loop, the median of all rounds."""
    which = int(of_processor)
    return statistics.median(r["trainer_s"][which] / r["bare_s"][which] for r in case["rounds"])


def ratio_lines(cases: Sequence[Report]) -> list[str]:
    """The table of ratios in Markdown."""
    heads = ["model", "batch", "bare ms", "trainer ms", "ratio", "of processor time"]
    lines = [row(heads), row(["---", *["---:"] * (len(heads) - 1)])]
    for case in cases:
        each_ms = [
            statistics.median(r[side][0] for r in case["rounds"]) / case["steps"] * 1e3
            for side in ("bare_s", "trainer_s")
        ]
        cells = [case["model"], f"{case['batch_size']:,}", *(f"{ms:.2f}" for ms in each_ms)]
        cells += [f"{ratio(case):.2f}", f"{ratio(case, of_processor=True):.2f}"]
        lines.append(row(cells))
    return lines


def parts_lines(cases: Sequence[Report]) -> list[str]:
    """What a step spends in each part, in Markdown: a column per case."""
    columns = [_parts_ms(case) for case in cases]
    names = [*dict.fromkeys(n for c in columns for n in c)]
    names = [name for name in names if name not in (BESIDE, WAITING)]
    names.sort(key=lambda name: -columns[0].get(name, 0.0))
    heads = ["processor ms a step", *(f"{case['model']}, {case['batch_size']:,}" for case in cases)]
    lines = [row(heads), row(["---", *["---:"] * len(cases)])]
    for name in [*names, BESIDE, WAITING]:
        cells = [name, *(f"{column.get(name, 0.0):.3f}" for column in columns)]
        lines.append(row(cells))
    return lines


def _parts_ms(case: Report) -> Mapping[str, float]:
    names = dict.fromkeys(name for turn in case["parts"] for name in turn)
    return {
        name: statistics.median(t.get(name, 0.0) for t in case["parts"]) / case["steps"] * 1e3
        for name in names
    }


if __name__ == "__main__":
    main()
