"""Both verbs that look at rankers of histories, on runs of the simulator."""

import json
from math import log2
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from commands import experiment, recsys_command, train_command

from features.errors import RunConfigError
from recsys.data.simulated_attraction import HistoriesConfig
from recsys.data.simulated_histories import simulate_histories
from recsys.nn.cutting import to_own_histories
from recsys.search import role_probe
from recsys.search.history_run import HistoryRun
from recsys.search.inspect_roles import probe_roles
from recsys.search.search_quality import default_edges
from recsys.trained import untrained_task
from recsys.training import task

FEATURES = """
sources: {events: events.parquet}
entity: {user: user_id, item: item_id, time: timestamp}
label: {name: click, where: "shown"}
split: {kind: temporal, val_from: 2024-04-25, test_from: 2024-04-28}
defaults: {dim: 4}
tables:
  kinds: {scheme: full}
features:
  - {name: item_id, kind: categorical}
  - {name: category, kind: categorical, table: kinds}
  - {name: clicked, kind: sequence, of: [item_id, category], max_length: 16, where: "click = 1"}
"""
DECOUPLED = "{scheme: decoupled, attention: {dim: 2}}"
K = 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("histories")
    size = HistoriesConfig(num_users=300, num_items=40, num_categories=8, history_length=12)
    simulate_histories(size, directory / "data")
    for name, features, ranker in [
        ("DARE", FEATURES.replace("{scheme: full}", DECOUPLED), {"top_k": K}),
        ("DIN", FEATURES, {}),
        ("short", FEATURES.replace("max_length: 16", "max_length: 4"), {}),
        ("FM", FEATURES.replace("max_length: 16", "max_length: 4, pooling: mean"), None),
    ]:
        (directory / f"features_{name}.yaml").write_text(features)
        chosen = {"class_path": "DIN" if name == "short" else name}
        if ranker is not None:
            chosen["init_args"] = {"mlp": [8], **ranker}
        model = {
            "class_path": "RankingTask",
            "init_args": {
                "ranker": chosen,
                "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}},
            },
        }
        file = experiment(directory, model, features=f"features_{name}.yaml", name=name)
        fast = ("--data.batch_size", 1024, "--run.test", "false")
        assert train_command("fit", "-c", file, *fast) == 0
    return directory


def run_of(trained, name):
    return trained / "runs" / name


def quality(trained, tmp_path, capsys, *names, more=()):
    runs = [run_of(trained, name) for name in names]
    out = ("--out", tmp_path / "out", "--json", "--truth", trained / "data")
    assert recsys_command("search-quality", *runs, *out, *more) == 0
    return json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------------------------- searches
def loop_ndcg(trained, *, order):
    """By the files of the simulator, example by example.

    Args:
        trained: Folder of the runs.
        order: From a run and a batch's vectors, what gives places in a history, best first.
    """
    pairs = pl.read_parquet(trained / "data" / "attraction.parquet")
    wanted = ("target_category", "clicked_category", "attraction")
    attraction = {(target, b): a for target, b, a in pairs.select(wanted).rows()}
    decay = dict(pl.read_parquet(trained / "data" / "decay.parquet").rows())
    run = HistoryRun.load(run_of(trained, "DARE"), name="DARE")
    raw = run.data.schema.decode("category", pl.Series(range(9))).to_list()
    found = []
    for shared in run.data.val_dataloader():
        batch = to_own_histories(shared)
        embedded = run.task.embedder(batch)
        history = batch.sequences["clicked.category"].to_dense()
        kept = order(run, embedded)
        for number, (clicked, target) in enumerate(
            zip(history, batch.ids["category"].values().tolist(), strict=True)
        ):
            gains = [
                attraction.get((raw[target], raw[b]), 0.0) * decay.get(len(clicked) - place, 0.0)
                for place, b in enumerate(clicked.tolist())
            ]
            best = dcg(sorted(gains, reverse=True))
            if best > 0:
                found.append(dcg([gains[place] for place in kept(number, len(gains))]) / best)
    return sum(found) / len(found), len(found)


def dcg(gains):
    return sum(gain / log2(rank + 2) for rank, gain in enumerate(gains[:K]))


def by_model(run, embedded):
    with torch.no_grad():
        events = run.ranker.kept(embedded)
    starts = [0, *embedded.sequences["clicked.item_id"].lengths_B.cumsum(0).tolist()]
    return lambda number, _: [
        token - starts[number]
        for token in events.token_BK[number][events.is_event_BK[number]].tolist()
    ]


def by_recency(run, embedded):
    return lambda _, length: range(length - 1, -1, -1)


def test_ndcg_of_a_run_equals_loops_over_its_kept_events(trained, tmp_path, capsys):
    content = quality(trained, tmp_path, capsys, "DARE", more=("--k", K))
    [row] = [r for r in content["found"] if r["truth"] == "simulator"]
    ndcg, num_searches = loop_ndcg(trained, order=by_model)
    assert (row["ndcg"], row["num_searches"]) == (pytest.approx(ndcg), num_searches)
    assert row["recent"] == pytest.approx(loop_ndcg(trained, order=by_recency)[0])
    assert 0 < row["random"] < row["recent"] < 1


def test_runs_stand_beside_each_other_by_both_truths(trained, tmp_path, capsys):
    content = quality(trained, tmp_path, capsys, "DARE", "DIN", more=("--split", "test"))
    found = content["found"]
    assert (content["k"], content["split"]) == (20, "test")
    assert [(r["run"], r["truth"]) for r in found] == [
        (run, truth) for run in ("DARE", "DIN") for truth in ("simulator", "mutual information")
    ]
    for one, other in zip(found[:2], found[2:], strict=True):
        assert one["num_searches"] == other["num_searches"] > 100
        assert (one["random"], one["recent"]) == (other["random"], other["recent"])
        assert one["ndcg"] != other["ndcg"]
    written = pl.read_csv(tmp_path / "out" / "search_quality.csv")
    assert written["ndcg"].to_list() == pytest.approx([r["ndcg"] for r in found])
    assert (tmp_path / "out" / "search_quality.png").read_bytes().startswith(b"\x89PNG")


def test_few_examples_and_what_is_not_known(trained, tmp_path, capsys):
    few = quality(trained, tmp_path, capsys, "DIN", more=("--max-examples", 10))
    assert all(r["num_searches"] <= 10 for r in few["found"])
    out = ("--out", tmp_path, "--edges", 90, 91, "--category", "item_id")
    assert recsys_command("search-quality", run_of(trained, "DIN"), *out) == 0
    printed = capsys.readouterr().out
    assert "mutual information: the training rows tell too little of every search" in printed
    assert "search_quality.png" in printed


def test_buckets_of_distances():
    assert default_edges(1) == (1, 2)
    assert default_edges(4) == (1, 2, 4, 5)
    assert default_edges(200) == (1, 2, 4, 8, 16, 32, 64, 128, 201)


# -------------------------------------------------------------------------------------- roles
def test_roles_of_shared_and_decoupled_tables(trained, tmp_path, capsys):
    runs = [run_of(trained, name) for name in ("DARE", "DIN")]
    assert recsys_command("inspect-roles", *runs, "--batches", 2, "--out", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert [(r["run"], r["column"], r["steps"]) for r in found] == [
        (run, column, "trained") for run in ("DARE", "DIN") for column in ("item_id", "category")
    ]
    assert [r["opposed"] is None for r in found] == [False, True, False, False]
    for row in found:
        assert row["ids"] == (40 if row["column"] == "item_id" else 8)
        assert row["norm_attention"] > 0
        expected = row["norm_representation"] / row["norm_attention"]
        assert row["ratio"] == pytest.approx(expected)
    ids = pl.read_csv(tmp_path / "role_ids.csv", schema_overrides={"value": pl.String})
    assert len(ids) == 2 * (40 + 8)
    assert set(ids.filter(column="category")["value"]) == set("01234567")
    opposed = (ids.filter(run="DIN", column="category")["cosine"] < 0).mean()
    assert found[3]["opposed"] == pytest.approx(opposed)
    assert (tmp_path / "roles.png").read_bytes().startswith(b"\x89PNG")


def test_tables_of_a_ranker_of_histories_are_inspected_without_angles(trained, capsys):
    assert recsys_command("inspect-tables", run_of(trained, "DARE"), "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [t["name"] for t in content["tables"]] == [
        "item_id",
        "kinds@attention",
        "kinds@representation",
    ]
    assert "rankers of one vector per feature only" in content["no_angles"]


def test_roles_in_training(trained, tmp_path, capsys):
    run = run_of(trained, "DIN")
    assert recsys_command("inspect-roles", run, "--train", 9, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert all(steps in printed for steps in ("1-3", "4-5", "6-7", "8-9"))
    assert len(pl.read_csv(tmp_path / "roles.csv")) == 8


@pytest.mark.parametrize("name", ["DARE", "DIN"])
def test_training_with_copies_gives_the_weights_of_the_run(trained, monkeypatch, name):
    made = []

    def remember(checkpoint, manifest):
        made.append(untrained_task(checkpoint, manifest))
        return made[0]

    monkeypatch.setattr(role_probe, "untrained_task", remember)
    run = HistoryRun.load(run_of(trained, name), name=name)
    before = run.task.state_dict()
    num_steps = len(run.data.train_dataloader())  # the run was trained for an epoch
    role_probe.probe_training(run, num_steps=num_steps)
    for key, values in made[0].state_dict().items():
        torch.testing.assert_close(values, before[key], rtol=1e-4, atol=1e-5)


def test_schemes_are_told_of_the_steps_that_training_tells_them_of(trained, monkeypatch):
    in_training, in_probe = [], []
    run = run_of(trained, "DIN")
    for module, numbers in ((task, in_training), (role_probe, in_probe)):
        monkeypatch.setattr(module, "after_steps", lambda _, numbers=numbers: (numbers.append,))
    name = ("--run.name", "again", "--run.test", "false", "--trainer.max_steps", 3)
    file = trained / "DIN.yaml"
    assert train_command("fit", "-c", file, *name) == 0
    role_probe.probe_training(HistoryRun.load(run, name="DIN"), num_steps=3)
    assert in_probe == in_training == [0, 1, 2]


# ------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("verb", "runs", "arguments", "message"),
    [
        ("search-quality", ["FM"], (), "RUN: reads no history with a target in view, got "),
        ("inspect-roles", ["FM"], (), "RUN: reads no history with a target in view, got "),
        ("search-quality", ["DIN"], ("--category", "categry"), "did you mean 'category'?"),
        ("search-quality", ["DIN"], ("--truth", "."), "--truth: has no attraction.parquet and no"),
        ("search-quality", ["DIN"], ("--k", 0), "--k: is too small, got 0"),
        ("search-quality", ["DIN"], ("--max-examples", 0), "--max-examples: is too small, got 0"),
        ("search-quality", ["DIN"], ("--edges", 3, 2), "mutual_information.edges: must rise"),
        ("search-quality", ["DIN", "short"], (), "RUN: short was trained on other data or"),
        ("inspect-roles", ["DIN"], ("--batches", 0), "--batches: is too small, got 0"),
        ("inspect-roles", ["DIN"], ("--train", -1), "--train: is too small, got -1"),
        ("propose-probes", ["DARE"], None, "RUN: DARE reads histories event by event, got "),
        ("inspect-roles", ["none"], (), "RUN: has no checkpoint, got "),
    ],
)
def test_mistakes_end_with_code_2(trained, tmp_path, capsys, verb, runs, arguments, message):
    paths = [run_of(trained, name) for name in runs]
    out = () if arguments is None else ("--out", tmp_path / "out", *arguments)
    assert recsys_command(verb, *paths, *out) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_histories_of_lists_have_no_gradients_by_id():
    run = SimpleNamespace(
        name="run",
        ranker=SimpleNamespace(columns=SimpleNamespace(names=("tags",))),
        data=SimpleNamespace(schema=SimpleNamespace(is_multi_valued=lambda name: True)),
    )
    with pytest.raises(RunConfigError, match=r"run: has no column .* one value .*, got tags; "):
        probe_roles([run], batches=1, steps=None)


@pytest.mark.parametrize("verb", ["search-quality", "inspect-roles"])
def test_a_file_is_no_folder_to_write_to(trained, tmp_path, capsys, verb):
    (tmp_path / "out").touch()
    assert recsys_command(verb, run_of(trained, "DIN"), "--out", tmp_path / "out") == 2
    assert "--out: is no folder, got " in capsys.readouterr().err


def test_a_category_has_one_value_of_a_vocabulary(trained, monkeypatch):
    run = HistoryRun.load(run_of(trained, "DIN"), name="DIN")
    assert run.category(None) == "category"
    assert run.category("item_id") == "item_id"
    schema = type(run.data.schema)
    monkeypatch.setattr(schema, "num_ids", lambda self, name: None)
    with pytest.raises(ValueError, match="--category: has ids without number, got 'category'"):
        run.category(None)
    monkeypatch.setattr(schema, "is_multi_valued", lambda self, name: True)
    with pytest.raises(ValueError, match="--category: has several values of an event"):
        run.category(None)
