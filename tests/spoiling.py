"""Ways to spoil what a command reads, and the commands that read it."""

import polars as pl
from commands import recsys_command, train_command
from ruamel.yaml import YAML

RANKER = "model.init_args.ranker"


def edit(place, **changes):
    """Set values of the experiment file by dotted keys; `...` drops one."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(place / "run.yaml")
    for key, value in changes.items():
        *above, last = key.split(".")
        at = content
        for part in above:
            at = at[part]
        if value is ...:
            del at[last]
        else:
            at[last] = value
    yaml.dump(content, place / "run.yaml")


def edit_features(place, old, new):
    text = (place / "ranking.yaml").read_text()
    assert old in text
    (place / "ranking.yaml").write_text(text.replace(old, new))


def spoil(place, changes):
    """Set columns of the events; `...` drops one."""
    file = place / "data" / "events.parquet"
    dropped = [name for name, value in changes.items() if value is ...]
    kept = {name: value for name, value in changes.items() if value is not ...}
    pl.read_parquet(file).with_columns(**kept).drop(dropped).write_parquet(file)


def in_row(row, value, column):
    """The column with another value in one row."""
    return pl.when(pl.int_range(pl.len()) == row).then(value).otherwise(pl.col(column))


def fit(place, *arguments):
    return train_command("fit", "-c", place / "run.yaml", *arguments)


def files(place):
    return sorted(str(file) for file in place.rglob("*") if "store" not in file.parts)


def score(inputs, place):
    return recsys_command("score", inputs / "bundle", place / "data", "--out", place / "out")


def export(place, run):
    return recsys_command("export", run, "--out", place / "bundle")
