"""Every way to store a table through training, export and scoring."""

import polars as pl
import pytest
import torch
from bundles import checkpoint_of, data_module, score, task_of, train
from safetensors.torch import load_file
from tables.conftest import SPECS

from features import columns
from features.table_spec import PlannedTable
from recsys.bundle import TABLES
from recsys.checkpoint import read_manifest
from recsys.report import score_metrics

# Planned tables come after others: tests of the search train them.
AT_ONCE = {n: spec for n, spec in SPECS.items() if not isinstance(spec, PlannedTable)}
NAMES = [name.replace(" ", "_") for name in AT_ONCE]
HEAD = """
sources:
  events: events.parquet
  items: {path: items.parquet, on: item_id}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: click}
split: {kind: temporal, fractions: [0.6, 0.2, 0.2]}
defaults: {dim: 8}
"""


def features():
    """A table of each scheme; each is read by ids, by lists of ids and by a history."""
    tables, entries = "tables:\n", "features:\n"
    for name, spec in zip(NAMES, AT_ONCE.values(), strict=True):
        tables += f"  {name}: {spec.model_dump_json(exclude_none=True)}\n"
        entries += (
            f"  - {{name: user_{name}, column: user_id, kind: categorical, table: {name}}}\n"
            f"  - {{name: item_{name}, column: item_id, kind: categorical, table: {name}}}\n"
            f'  - {{name: tags_{name}, column: tags, kind: categorical, split: "|", '
            f"pooling: sum, table: {name}}}\n"
            f"  - {{name: past_{name}, kind: sequence, of: item_{name}, max_length: 3, "
            f"pooling: mean}}\n"
        )
    return HEAD + tables + entries


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("schemes")
    return train(directory, ["DCNv2"], features=features(), tables={}, warm_up=True)


def test_scores_are_the_probabilities_of_the_task(trained, tmp_path):
    task, data = task_of(trained, "DCNv2"), data_module(trained, "ranking")
    assert set(task.embedder.schemes) == set(NAMES)
    batches = list(data.val_dataloader())
    with torch.no_grad():
        expected = torch.cat([task(batch).sigmoid() for batch in batches])
    scores = score(trained, "DCNv2", trained / "data", tmp_path / "out", "--columns", "click")
    files = data.store.example_files("val")
    rows = pl.concat([pl.read_parquet(file) for file in files])[columns.ROW]
    found = scores[rows.to_list()].select("score_click").to_torch()
    torch.testing.assert_close(found, expected[: len(found)], atol=1e-6, rtol=0)
    logged = read_manifest(checkpoint_of(trained, "DCNv2")).metrics["val/auc/click"]
    auc = score_metrics(scores[rows.to_list()], label="click", score="score_click")["auc"]
    assert auc == pytest.approx(logged, abs=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_bundles_have_the_integers_of_quantised_tables(trained, bits):
    name = {8: "quantized", 16: "quantized_to_16"}[bits]
    weight_VW = task_of(trained, "DCNv2").embedder.replicated.weights[name]
    stored = load_file(trained / "bundles" / "DCNv2" / TABLES)
    codes_VD = stored.pop(f"replicated.weights.{name}")
    steps = stored.pop(f"replicated.weights.{name}@steps")
    assert codes_VD.dtype == {8: torch.int8, 16: torch.int16}[bits]
    assert steps.shape == {8: (len(codes_VD), 1), 16: (1, 1)}[bits]
    assert torch.equal(codes_VD * steps, weight_VW[:, :8])


def test_all_that_schemes_store_was_trained(trained):
    task = task_of(trained, "DCNv2")
    before = dict(type(task.embedder)(_tables(task), config=task.tables_config).named_parameters())
    for name, parameter in task.embedder.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def _tables(task):
    return task.logical_tables(task.schema)
