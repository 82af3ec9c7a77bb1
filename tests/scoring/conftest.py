"""Bundles to score with, and a log that several files and folders hold."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from bundles import train, write_data
from scoring.jobs import content, job_of
from test_score_sequences import SEQUENCE

from recsys.scoring.run import score

WITHOUT_HISTORIES = """
sources:
  events: events.parquet
  items: {path: items.parquet, on: item_id}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: click}
defaults: {dim: 8}
features:
  - {name: user_id, kind: categorical}
  - {name: item_id, kind: categorical}
  - {name: tags, kind: categorical, split: "|"}
  - {name: hour, kind: categorical, encoding: {kind: identity, size: 24}}
  - {name: log_price, column: price, kind: dense, transform: log1p}
  - {name: filled, column: price, kind: bucketized, quantiles: 4, fill: 7.0}
"""
WITH_HISTORIES = (
    WITHOUT_HISTORIES
    + """
  - {name: history, kind: sequence, of: item_id, max_length: 5, pooling: mean}
  - {name: mobile, kind: sequence, of: [item_id, tags], max_length: 3, pooling: sum,
     where: "device = 'mobile'"}
"""
)


@dataclass(frozen=True)
class Bundles:
    """Of each kind one, and the log that they were trained on."""

    plain: Path
    histories: Path
    sequence: Path
    data: Path

    def of(self, kind):
        return getattr(self, kind)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    home = tmp_path_factory.mktemp("scoring")
    found = {}
    for kind, model, features in (
        ("plain", "FM", WITHOUT_HISTORIES),
        ("histories", "DCNv2", WITH_HISTORIES),
        ("sequence", "SASRec", SEQUENCE),
    ):
        trained = train(home / kind, [model], features=features)
        found[kind] = trained / "bundles" / model
    write_data(home / "data")
    return Bundles(**found, data=home / "data")


@pytest.fixture(scope="session")
def log(bundles, tmp_path_factory):
    """The log in three files of several row groups, one of them empty."""
    data = tmp_path_factory.mktemp("log")
    events = pl.read_parquet(bundles.data / "events.parquet")
    (data / "log").mkdir()
    for name, rows in (("a", events[:130]), ("b", events[:0]), ("c", events[130:])):
        rows.write_parquet(data / "log" / f"{name}.parquet", row_group_size=70)
    items = pl.read_parquet(bundles.data / "items.parquet")
    items.write_parquet(data / "items.parquet")
    return data


@pytest.fixture
def own_log(log, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(log, tmp_path / "data")


@pytest.fixture(scope="session")
def whole_run(bundles, log, tmp_path_factory, request):
    """The job of a kind, and what it writes when nothing happens."""
    job = job_of(bundles, request.param, log, tmp_path_factory.mktemp("whole") / "out")
    assert score(job) is not None
    return job, content(job.out)
