"""A resumed run is the run that it was, and an evaluated model that which was trained."""

import json
import shutil
from copy import deepcopy

import pytest
from commands import experiment, recsys_command, train_command
from training.runs import write_inputs

from features.errors import CheckpointMismatchError
from features.load import load_feature_set
from features.spec import Label
from recsys.checkpoint import find_checkpoint, read_manifest
from recsys.training.same_run import (
    _differences,
    check_evaluated,
    check_resumed,
    check_same_data,
)

TASK = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {"class_path": "DeepFM", "init_args": {"mlp": [8], "dropout": 0.5}},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
        "scheduler": {
            "class_path": "torch.optim.lr_scheduler.StepLR",
            "init_args": {"step_size": 4, "gamma": 0.5},
        },
    },
}
OPTIMIZER, SCHEDULER = "model.init_args.optimizer", "model.init_args.scheduler"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Inputs, and a run of one epoch."""
    directory = write_inputs(tmp_path_factory.mktemp("resumed_settings"))
    file = experiment(directory, TASK, features="ranking.yaml", name="run")
    assert train_command("fit", "-c", file, "--trainer.max_epochs", 1) == 0
    return directory


def checkpoint_of(directory):
    return directory / "runs" / "run" / "checkpoints" / "last.ckpt"


def said(directory, change, *, label=None):
    """What is said of resuming the run after a change of its settings, without what to do."""
    checkpoint = checkpoint_of(directory)
    config = deepcopy(read_manifest(checkpoint).config)
    change(config)
    feature_set = load_feature_set(directory / "ranking.yaml")
    if label is not None:
        feature_set = feature_set.model_copy(update={"label": (label,)})
    with pytest.raises(CheckpointMismatchError) as raised:
        check_resumed(checkpoint, config, feature_set)
    for mistake in raised.value.mistakes:
        assert mistake.endswith(f"`run.continue_from: {checkpoint}`")
    return [mistake.partition("; correct it")[0] for mistake in raised.value.mistakes]


def write_migrated(directory, out):
    features = directory / "ranking.yaml"
    command = ("migrate", directory / "runs/run", "--features", features, "--out", out)
    assert recsys_command(*command, "--data", directory / "data") == 0
    return find_checkpoint(out, where="")


def put(place, value):
    """A change of one setting."""

    def change(config):
        *above, name = place.split(".")
        for key in above:
            config = config[key]
        config[name] = value

    return change


DIFFERS = "differs from the run that is resumed, got"


@pytest.mark.parametrize(
    ("place", "value", "before"),
    [
        ("seed_everything", 3, 0),
        ("data.batch_size", 32, 64),
        ("data.num_lanes", 4, 8),
        ("data.window_step", 10, "none"),
        (f"{OPTIMIZER}.init_args.lr", 0.5, 0.01),
        (f"{OPTIMIZER}.init_args.betas", [0.8, 0.9], [0.9, 0.999]),
        (f"{SCHEDULER}.init_args.gamma", 0.9, 0.5),
        ("model.init_args.tables.weight_decay", 0.1, "none"),
        ("model.init_args.tables.optimizer.lr", 0.5, 0.05),
        ("model.init_args.ranker.init_args.dropout", 0.1, 0.5),
        ("run.start_from", "runs/a", "none"),
        ("run.continue_from", "runs/a", "none"),
    ],
)
def test_another_setting_is_refused(directory, place, value, before):
    assert said(directory, put(place, value)) == [f"{place}: {DIFFERS} {value}; allowed {before}"]


def test_of_another_class_no_settings_are_named(directory):
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5, "momentum": 0.1}}
    assert said(directory, put(OPTIMIZER, sgd)) == [
        f"{OPTIMIZER}.class_path: {DIFFERS} torch.optim.SGD; allowed torch.optim.Adam"
    ]
    (mistake,) = said(directory, lambda config: config["model"]["init_args"].pop("scheduler"))
    assert f"{SCHEDULER}.class_path: {DIFFERS} none; allowed torch.optim.lr_sch" in mistake


def test_all_are_named_with_the_label(directory):
    label = Label(name="click", expr="1 - click")

    def change(config):
        config["seed_everything"] = 1
        put(f"{OPTIMIZER}.init_args.lr", 1)(config)

    mistakes = said(directory, change, label=label)
    assert [m.partition(":")[0] for m in mistakes] == [
        "seed_everything",
        f"{OPTIMIZER}.init_args.lr",
        "label",
    ]
    assert "got {'name': 'click', 'expr': '1 - click'}; allowed {'name': 'click'}" in mistakes[-1]


def test_what_a_resumed_run_heeds_may_change(directory):
    config = deepcopy(read_manifest(checkpoint_of(directory)).config)
    config["trainer"]["max_epochs"] = 9
    config["run"]["patience"] = 7
    config["data"] |= {"num_workers": 2, "eval_batch_size": 5, "data_dir": "elsewhere"}
    config["model"]["init_args"]["optimizer"]["init_args"] |= {"fused": True, "foreach": False}
    config["model"]["init_args"]["tables"] |= {"dense_max_bytes": 5, "sharding": {"a": "row_wise"}}
    config["model"]["init_args"]["compile"] = True
    feature_set = load_feature_set(directory / "ranking.yaml")
    check_resumed(checkpoint_of(directory), config, feature_set)


def test_a_migrated_run_is_not_resumed(directory, tmp_path):
    checkpoint = write_migrated(directory, tmp_path / "migrated")
    config = read_manifest(checkpoint).config
    said = rf"has not begun, .* got step 0; .* `run.continue_from: {checkpoint}`"
    with pytest.raises(CheckpointMismatchError, match=said):
        check_resumed(checkpoint, config, load_feature_set(directory / "ranking.yaml"))


def test_of_several_lengths_the_last_may_not_change():
    before = {"model": {"init_args": {"ks": [5, 10]}}}

    def differences(ks):
        return list(_differences({"model": {"init_args": {"ks": ks}}}, before, keys=["model"]))

    assert differences([20, 10]) == []
    assert differences([10, 5]) == [("model.init_args.ks", "[10, 5]", "[5, 10]")]


def test_a_setting_that_a_class_has_got_since_may_be_anything():
    before = {"model": {"init_args": {"ranker": {"class_path": "A", "init_args": {"width": 2}}}}}
    now = deepcopy(before)
    now["model"]["init_args"]["ranker"]["init_args"]["depth"] = 3
    assert list(_differences(now, before, keys=["model"])) == []


def test_other_data_is_refused(directory):
    checkpoint = checkpoint_of(directory)
    known = read_manifest(checkpoint).data_fingerprint
    assert known
    check_same_data(checkpoint, known)
    with pytest.raises(CheckpointMismatchError, match=r"trained on other data, got .* 0123456789"):
        check_same_data(checkpoint, "0123456789")


def test_another_model_is_not_evaluated(directory, capfd):
    config = deepcopy(read_manifest(checkpoint_of(directory)).config)
    config["seed_everything"] = 5
    config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 1
    check_evaluated(checkpoint_of(directory), config)
    file = experiment(directory, TASK, features="ranking.yaml", name="run")
    more = ("--model.init_args.ranker", "DCNv2")
    report = directory / "runs" / "run" / "metrics.json"
    before = report.read_text()
    for verb in ("test", "validate"):
        assert train_command(verb, "-c", file, *more) == 2
        said = capfd.readouterr()
        assert "ranker.class_path: differs from the model of" in said.err + said.out
    assert report.read_text() == before


@pytest.mark.parametrize("resume", [("--ckpt_path", "last"), ("--run.resume", "auto")])
def test_a_refused_command_changes_nothing(directory, resume, capfd):
    file = experiment(directory, TASK, features="ranking.yaml", name="told")
    run = directory / "runs" / "told"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(directory / "runs" / "run", run)
    more = ("--trainer.max_epochs", 2, *resume)
    assert train_command("fit", "-c", file, *more, f"--{OPTIMIZER}.init_args.lr", 0.3) == 2
    told = capfd.readouterr()
    assert f"{OPTIMIZER}.init_args.lr: {DIFFERS} 0.3; allowed 0.01" in told.err + told.out
    assert (run / "config.json").read_text() == (directory / "runs/run/config.json").read_text()
    assert train_command("fit", "-c", file, *more) == 0
    assert json.loads((run / "config.json").read_text())["trainer"]["max_epochs"] == 2
