"""What an edit of the feature file keeps: MovieLens-1M, grown by a tenth, with four edits at once.

    python benchmarks/feature_edit.py --root runs/feature_edit

A DCNv2 is trained on the first 80 % of the log by time. Then the log grows to 90 %, and the feature
file is edited: genres are new, the table of items is wider, a column has another name. The run is
migrated, and goes on; beside it the new file is trained from scratch. The last tenth of the log
evaluates both after each epoch. Steps that were done are skipped.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import polars as pl

MAX_EPOCHS = 8

FEATURES = """\
sources:
  events: ratings.parquet
  users: {{path: users.parquet, on: user_id}}
  items: {{path: items.parquet, on: item_id}}
entity: {{user: user_id, item: item_id, time: {{column: timestamp, unit: s}}}}
label: {{name: liked, expr: "rating >= 4"}}
split: {{kind: column, column: part, train: [{train}], val: [{val}]}}
defaults: {{dim: 16}}
features:
  - {{name: user_id, kind: categorical}}
  - {{name: item_id, kind: categorical{item}}}
  - {{name: gender, kind: categorical}}
  - {{name: age, kind: categorical}}
  - {{name: zip_code, kind: categorical}}
{edited}\
"""
OLD = FEATURES.format(
    train="first",
    val="second",
    item="",
    edited="  - {name: occupation, kind: categorical}\n",
)
NEW = FEATURES.format(
    train="first, second, third",
    val="last",
    item=", dim: 24",
    edited=(
        "  - {name: job, renamed_from: occupation, kind: categorical}\n"
        '  - {name: genres, kind: categorical, split: "|"}\n'
    ),
)
EXPERIMENT = f"""\
data: {{batch_size: 1024, eval_batch_size: 8192}}
model:
  class_path: RankingTask
  init_args:
    ranker: {{class_path: DCNv2, init_args: {{mlp: [64, 64], dropout: 0.2}}}}
    optimizer:
      class_path: torch.optim.Adam
      init_args: {{lr: 1.0e-3, weight_decay: 1.0e-5, fused: true}}
run: {{test: false}}
trainer: {{max_epochs: {MAX_EPOCHS}}}
"""


def main() -> None:
    """Do what is not done, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/feature_edit"))
    root: Path = parser.parse_args().root.resolve()
    write_inputs(Path(os.environ["RECSYS_DATA"]) / "ml-1m", root)
    fit(root, "old", features="old.yaml", data="old")
    command(
        "-m", "recsys", "migrate", root / "old", "--features", root / "new.yaml",
        "--data", root / "new", "--out", root / "migrated", done=root / "migrated",
    )  # fmt: skip
    difference = largest_difference(root)
    further = fit(root, "further", features="new.yaml", data="new", start=root / "migrated")
    scratch = fit(root, "scratch", features="new.yaml", data="new")
    most, num_rows = difference
    print(f"\nscores of the {num_rows:,} old training rows differ by at most {most:.1e}\n")
    print("| epoch | continued | from scratch |\n| ---: | ---: | ---: |")
    for epoch, pair in enumerate(zip(further, scratch, strict=False), start=1):
        print(f"| {epoch} | {pair[0]:.4f} | {pair[1]:.4f} |")
    best = max(scratch)
    reached = next((e for e, auc in enumerate(further, start=1) if auc >= best), None)
    print(
        f"\nafter one epoch: {further[0] - scratch[0]:+.4f} AUC; the best from scratch, {best:.4f} "
        f"after {scratch.index(best) + 1} epochs, is reached after {reached}"
    )


def write_inputs(ml1m: Path, root: Path) -> None:
    """The log of then, that of now with a renamed column, and the files that describe them."""
    for folder in ("old", "new"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    ratings = pl.read_parquet(ml1m / "ratings.parquet").sort("timestamp", maintain_order=True)
    place = pl.int_range(pl.len()) / pl.len()
    part = pl.lit("last")
    for end, name in ((0.9, "third"), (0.8, "second"), (0.78, "first")):
        part = pl.when(place < end).then(pl.lit(name)).otherwise(part)
    ratings = ratings.with_columns(part.alias("part"))
    users = pl.read_parquet(ml1m / "users.parquet")
    ratings.filter(pl.col("part").is_in(["first", "second"])).write_parquet(
        root / "old" / "ratings.parquet"
    )
    ratings.write_parquet(root / "new" / "ratings.parquet")
    users.write_parquet(root / "old" / "users.parquet")
    users.rename({"occupation": "job"}).write_parquet(root / "new" / "users.parquet")
    for folder in ("old", "new"):
        pl.read_parquet(ml1m / "items.parquet").write_parquet(root / folder / "items.parquet")
    for name, text in (("old.yaml", OLD), ("new.yaml", NEW), ("experiment.yaml", EXPERIMENT)):
        (root / name).write_text(text)


def fit(
    root: Path, name: str, *, features: str, data: str, start: Path | None = None
) -> list[float]:
    """Validation AUC after each epoch of a training."""
    arguments = ["-c", root / "experiment.yaml", "--data.features", root / features]
    arguments += ["--data.data_dir", root / data, "--data.store", root / "store"]
    arguments += ["--run.root", root, "--run.name", name]
    if start is not None:
        arguments += ["--run.continue_from", start]
    command("train.py", "fit", *arguments, done=root / name / "metrics.json")
    [log] = (root / name).glob("csv/*/metrics.csv")
    with log.open() as opened:
        found = [row["val/auc/liked"] for row in csv.DictReader(opened)]
    return [float(value) for value in found if value]


def largest_difference(root: Path) -> tuple[float, int]:
    """Between probabilities of the old and the migrated model, of rows that the old trained on."""
    scores = []
    for name, data in (("old", "old"), ("migrated", "new")):
        bundle, out = root / f"{name}_bundle", root / f"{name}_scores"
        command("-m", "recsys", "export", root / name, "--out", bundle, done=bundle)
        command(
            "-m", "recsys", "score", bundle, root / data, "--out", out, "--columns", "part",
            done=out / "complete.json",
        )  # fmt: skip
        rows = pl.read_parquet(out / "*.parquet").filter(pl.col("part") == "first")
        scores.append(rows["score_liked"])
    return float((scores[0] - scores[1]).abs().max()), len(scores[0])  # pyright: ignore[reportArgumentType]


def command(*arguments: object, done: Path) -> None:
    """Run a command of the project, unless what it makes is there."""
    if not done.exists():
        subprocess.run([sys.executable, *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
