"""Training and inference speed of SASRec and BERT4Rec beside RecTools', on MovieLens-1M.

    python benchmarks/sequence_speed.py --peer-python ENVIRONMENT/bin/python

RECSYS_DATA names the folder that has `ml-1m`. RecTools needs an environment of its own;
`rectools/requirements.txt` says how to make it. Without --peer-python only this side is measured.

Both sides train on the same events with the same sizes, rates and threads, and take turns, so that
what else the machine does weighs on both: ratios are medians over rounds of the ratio within one.
An epoch lasts from its start to the end of its last step, validation left out. Inference ranks the
whole catalogue for all users, seen items removed, from encoded events to raw ids. Loss is the mean
of the last epoch's steps, NDCG that of the last event of each user, computed alike for both.
Ends with exit code 1 where an epoch takes more than 1/6 of RecTools' or users/s are less than 5
times as many.

What the sides do not share: this one's Adam is the fused one, its BERT4Rec normalises after each
sublayer and has a head, and always masks what it asks for, where RecTools' shows a tenth of it and
replaces another; its sequences are not padded to the full length.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
from lightning import Callback, LightningModule, Trainer

from recsys.data.module import RecsysData
from recsys.metrics import remove_seen, top_k
from recsys.training.sequence import SequenceTask

_BENCHMARKS = Path(__file__).resolve().parent
_OURS, _THEIRS = "recsys", "RecTools"
_LARGEST_EPOCH_SHARE, _SMALLEST_RATE_RATIO = 1 / 6, 5.0
_SETTINGS = {
    "width": 64,
    "length": 200,
    "num_blocks": 2,
    "num_heads": 2,
    "dropout": 0.2,
    "mask_share": 0.2,
    "lr": 1e-3,
    "betas": (0.9, 0.98),  # RecTools' own, which it has no setting for
    "batch_size": 128,
    "eval_batch_size": 256,
}
# RecTools has no setting for the width of the feed-forward layers either.
_FEED_FORWARD = {"sasrec": 64, "bert4rec": 256}
_FEATURES = """
sources: {{events: ratings.parquet}}
entity: {{user: user_id, item: item_id, time: user_pos}}
split: {{kind: leave_one_out}}
defaults: {{dim: {width}}}
features:
  - {{name: item_id, kind: categorical}}
  - {{name: history, kind: sequence, of: item_id, max_length: {length}}}
"""

Report = dict[str, Any]


# ------------------------------------------------------------------------- inside our training
class Measurement(Callback):
    """What `train.py fit` is measured with: epochs while it trains, then inference.

    Args:
        out: Directory for `report.json` and `recommended.parquet`.
        passes: How often to rank for all users.
        k: Items per user.
    """

    def __init__(self, out: str, *, passes: int, k: int) -> None:
        self._out = Path(out)
        self._num_passes = passes
        self._k = k
        self._epochs: list[dict[str, float]] = []
        self._losses: list[float] = []
        self._started_s = self._stopped_s = (0.0, 0.0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._losses = []
        self._started_s = self._stopped_s = _clocks()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx
    ) -> None:
        """Read the clocks, in case that this step is the last."""
        self._losses.append(float(outputs["loss"]))
        self._stopped_s = _clocks()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch."""
        loss = statistics.fmean(self._losses)
        self._epochs.append(_between(self._started_s, self._stopped_s) | {"loss": loss})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank for all users, and report."""
        data = trainer.datamodule
        assert isinstance(pl_module, SequenceTask)
        assert isinstance(data, RecsysData)
        pl_module.eval()
        passes = []
        for _ in range(self._num_passes):
            started_s = _clocks()
            recommended = _recommended(pl_module, data, k=self._k)
            passes.append(_between(started_s, _clocks()))
            recommended.write_parquet(self._out / "recommended.parquet")
        report = {
            "epochs": self._epochs,
            "passes": passes,
            "num_parameters": sum(p.numel() for p in pl_module.parameters()),
            "num_threads": torch.get_num_threads(),
        }
        (self._out / "report.json").write_text(json.dumps(report))


@torch.inference_mode()
def _recommended(task: SequenceTask, data: RecsysData, *, k: int) -> pl.DataFrame:
    users, items = [], []
    for batch in data.test_dataloader():
        # Without targets, for an item that a user has seen is no candidate even if it is asked for.
        no_targets_B = torch.zeros_like(batch.targets_B)
        scores_BV = remove_seen(task(batch), no_targets_B, batch.seen_values, batch.seen_lengths_B)
        users.append(batch.users_B)
        items.append(top_k(scores_BV, k))
    users_R = torch.cat(users).repeat_interleave(k)
    raw_users = pl.read_parquet(data.store.users_file)["user"]
    return pl.DataFrame(
        {
            "user_id": raw_users.gather(users_R.numpy()),
            "item_id": data.schema.decode("item_id", pl.Series(torch.cat(items).flatten().numpy())),
            "rank": torch.arange(1, k + 1).repeat(len(users_R) // k).numpy(),
        }
    )


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _between(started_s: tuple[float, float], stopped_s: tuple[float, float]) -> dict[str, float]:
    wall_s, cpu_s = (b - a for a, b in zip(started_s, stopped_s, strict=True))
    return {"wall_s": wall_s, "cpu_s": cpu_s}


# ------------------------------------------------------------------------------- taking turns
def main() -> None:
    """Run in turns, print the table, judge."""
    options = _options()
    reports: dict[tuple[str, str], list[Report]] = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        targets = _write_data(directory, num_users=options.users)
        sides: dict[str, Callable[[Path, Mapping[str, Any]], list[str]]] = {_OURS: _our_command}
        if options.peer_python is not None:
            sides[_THEIRS] = lambda out, _: _their_command(options.peer_python.absolute(), out)
        for number in range(options.rounds):
            for model in options.models:
                for side, command in sides.items():
                    out = directory / f"{model}_{side}_{number}"
                    out.mkdir()
                    settings = _settings(options, model=model, seed=number)
                    (out / "settings.json").write_text(json.dumps(settings))
                    report = _run(command(out, settings), out, settings)
                    recommended = pl.read_parquet(out / "recommended.parquet")
                    report["ndcg"] = ndcg(recommended, targets)
                    report["num_users"] = len(targets)
                    reports.setdefault((model, side), []).append(report)
                    print(f"round {number} {model} {side}: {_summary(report)}", flush=True)
    print("\n".join(table_lines(reports)))
    sys.exit(_judgement(reports) if options.peer_python is not None else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="Python of RecTools' environment")
    parser.add_argument("--models", nargs="+", choices=list(_FEED_FORWARD), default=_FEED_FORWARD)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of each run")
    parser.add_argument("--passes", type=int, default=3, help="over all users, of each run")
    parser.add_argument("--k", type=int, default=10, help="items for each user")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--users", type=int, help="only the first so many, for a trial")
    parser.add_argument(
        "--attention-dropout",
        type=float,
        default=_SETTINGS["dropout"],
        help="of both sides; RecTools has no setting for it and takes that of all dropout",
    )
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="let both sides keep freed memory; else large tensors cost a page fault per 4 KiB",
    )
    return parser.parse_args()


def _settings(options: argparse.Namespace, *, model: str, seed: int) -> dict[str, Any]:
    names = ("epochs", "passes", "k", "threads", "attention_dropout", "keep_memory")
    chosen = {name: getattr(options, name) for name in names}
    return {**_SETTINGS, **chosen, "model": model, "seed": seed}


def _write_data(directory: Path, *, num_users: int | None) -> pl.DataFrame:
    """Write what each side reads; give the last event of each user."""
    if "RECSYS_DATA" not in os.environ:
        sys.exit("RECSYS_DATA: is not set; do `export RECSYS_DATA=DIRECTORY`, which has ml-1m/")
    ratings = pl.read_parquet(Path(os.environ["RECSYS_DATA"]) / "ml-1m" / "ratings.parquet")
    users = ratings["user_id"].unique().sort().head(num_users or len(ratings))
    ratings = ratings.filter(pl.col("user_id").is_in(users.implode()))
    ratings.write_parquet(directory / "ratings.parquet")
    (directory / "features.yaml").write_text(_FEATURES.format(**_SETTINGS))
    events = ratings.sort("user_id", "user_pos", maintain_order=True).select(
        "user_id",
        "item_id",
        pl.int_range(pl.len()).over("user_id").alias("place"),
        pl.int_range(pl.len()).reverse().over("user_id").alias("from_end"),
    )
    known = events.filter(pl.col("from_end") > 0)
    known.select("user_id", "item_id", "place", is_train=pl.col("from_end") > 1).write_parquet(
        directory / "events.parquet"
    )
    return events.filter(pl.col("from_end") == 0).select("user_id", "item_id")


def _our_command(out: Path, settings: Mapping[str, Any]) -> list[str]:
    experiment = out / "experiment.yaml"
    experiment.write_text(json.dumps(_experiment(out, settings)))  # YAML reads JSON
    return [sys.executable, "train.py", "fit", "-c", str(experiment)]


def _experiment(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    model = settings["model"]
    encoder = {
        name: settings[name] for name in ("num_blocks", "num_heads", "dropout", "attention_dropout")
    }
    encoder["hidden_width"] = _FEED_FORWARD[model]
    if model == "sasrec":
        encoder |= {"block": "sasrec", "scale_items": False}
    adam = {"lr": settings["lr"], "betas": settings["betas"], "fused": True}
    task = {
        "encoder": {
            "class_path": {"sasrec": "SASRec", "bert4rec": "BERT4Rec"}[model],
            "init_args": encoder,
        },
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": adam},
        "mask_share": settings["mask_share"],
        "last_only_share": 0.0,
    }
    measurement = {"out": str(out), "passes": settings["passes"], "k": settings["k"]}
    return {
        "seed_everything": settings["seed"],
        "data": {
            "features": str(out.parent / "features.yaml"),
            "data_dir": str(out.parent),
            "store": str(out.parent / "store"),
            "batch_size": settings["batch_size"],
            "eval_batch_size": settings["eval_batch_size"],
        },
        "model": {"class_path": "SequenceTask", "init_args": task},
        "run": {"root": str(out), "test": False},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": settings["epochs"],
            "limit_val_batches": 0,
            "logger": False,
            "callbacks": [{"class_path": "sequence_speed.Measurement", "init_args": measurement}],
        },
    }


def _their_command(python: Path, out: Path) -> list[str]:
    command = [str(python), str(_BENCHMARKS / "rectools" / "run.py"), "--out", str(out)]
    command += ["--settings", str(out / "settings.json")]
    return [*command, "--events", str(out.parent / "events.parquet")]


def _run(command: list[str], out: Path, settings: Mapping[str, Any]) -> Report:
    threads = str(settings["threads"])
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, threads), "OMP_WAIT_POLICY": "PASSIVE"}
    environment["PYTHONPATH"] = str(_BENCHMARKS)
    if settings["keep_memory"]:
        # Both thresholds above all that is allocated.
        tunables = ("mmap_threshold", "trim_threshold")
        environment["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{t}={1 << 40}" for t in tunables)
    how = {"cwd": _BENCHMARKS.parent, "env": environment, "capture_output": True, "text": True}
    ran = subprocess.run(command, **how, check=False)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(command)}: ended with code {ran.returncode}\n{ran.stderr}")
    report = json.loads((out / "report.json").read_text())
    assert report["num_threads"] == settings["threads"], "both sides have equally many"
    return report


# ------------------------------------------------------------------------------------ results
def ndcg(recommended: pl.DataFrame, targets: pl.DataFrame) -> float:
    """Mean over all targets of 1 / log2(rank + 1), 0 where the target was not recommended."""
    hits = recommended.join(targets, on=["user_id", "item_id"])
    return float((1 / (hits["rank"] + 1).log(2)).sum() / len(targets))


def table_lines(reports: Mapping[tuple[str, str], list[Report]]) -> list[str]:
    """The table in Markdown: a row per model and side, ratios in the rows of this project.

    Ratios come twice, in the time of the clock and in that of the processor, which what else the
    machine does weighs on less.
    """
    heads = ["model", "side", "parameters", "s an epoch", "of RecTools' (processor)"]
    heads += ["users/s", "times RecTools' (processor)", "loss", "NDCG@10"]
    lines = [_row(heads), _row(["---", "---", *["---:"] * (len(heads) - 2)])]
    for (model, side), runs in reports.items():
        theirs = reports.get((model, _THEIRS), []) if side == _OURS else []
        cells = [
            model,
            side,
            f"{runs[0]['num_parameters']:,}",
            f"{statistics.median(map(_epoch_s, runs)):.2f}",
            _ratio_cell(runs, theirs, _epoch_s),
            f"{statistics.median(map(_users_per_s, runs)):,.0f}",
            _ratio_cell(runs, theirs, _users_per_s),
            f"{statistics.fmean(run['epochs'][-1]['loss'] for run in runs):.4f}",
            f"{statistics.fmean(run['ndcg'] for run in runs):.4f}",
        ]
        lines.append(_row(cells))
    return lines


def _judgement(reports: Mapping[tuple[str, str], list[Report]]) -> int:
    """Print what misses its target; give the exit code."""
    code = 0
    for (model, side), ours in reports.items():
        if side != _OURS:
            continue
        theirs = reports[model, _THEIRS]
        share, rate = (_median_ratio(ours, theirs, of) for of in (_epoch_s, _users_per_s))
        if share > _LARGEST_EPOCH_SHARE:
            print(f"{model}: an epoch takes {share:.3f} of RecTools', more than 1/6")
            code = 1
        if rate < _SMALLEST_RATE_RATIO:
            print(f"{model}: {rate:.1f} times RecTools' users/s, less than {_SMALLEST_RATE_RATIO}")
            code = 1
    return code


_Measure = Callable[[Report, str], float]


def _epoch_s(report: Report, clock: str = "wall_s") -> float:
    return statistics.median(epoch[clock] for epoch in report["epochs"])


def _users_per_s(report: Report, clock: str = "wall_s") -> float:
    return report["num_users"] / statistics.median(p[clock] for p in report["passes"])


def _median_ratio(
    ours: Iterable[Report], theirs: Iterable[Report], of: _Measure, *, clock: str = "wall_s"
) -> float:
    return statistics.median(of(a, clock) / of(b, clock) for a, b in zip(ours, theirs, strict=True))


def _ratio_cell(ours: list[Report], theirs: list[Report], of: _Measure) -> str:
    if not theirs:
        return ""
    wall, cpu = (_median_ratio(ours, theirs, of, clock=clock) for clock in ("wall_s", "cpu_s"))
    return f"{wall:.3g} ({cpu:.3g})"


def _summary(report: Report) -> str:
    losses = ", ".join(f"{epoch['loss']:.4f}" for epoch in report["epochs"])
    return (
        f"{_epoch_s(report):.2f} s an epoch ({_epoch_s(report, 'cpu_s'):.2f} s of the processor), "
        f"{_users_per_s(report):,.0f} users/s ({_users_per_s(report, 'cpu_s'):,.0f} a second of "
        f"the processor), losses {losses}, NDCG@10 {report['ndcg']:.4f}"
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
