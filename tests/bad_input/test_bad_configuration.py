"""A wrong feature file, experiment file or argument: exit code 2, a message, and no output."""

import pytest
from commands import recsys_command, train_command
from spoiling import RANKER, edit, edit_features, files, fit

from features.__main__ import main as features_command

FEATURE_MISTAKES = {
    "unknown key": (
        ("dim: 8}", "dimm: 8}"),
        r"ranking.yaml:\d+: defaults.dimm: unknown key; allowed dim; did you mean 'dim'\?",
    ),
    "duplicate key": (
        ("kind: categorical, split:", "kind: categorical, kind: dense, split:"),
        r"ranking.yaml:\d+: features.2.kind: duplicate key, first on line \d+; drop one",
    ),
    "wrong type": (("dim: 8}", "dim: many}"), r"defaults.dim: must be a whole number, got 'many'"),
    "unknown kind": (("kind: dense", "kind: dens"), r"log_price.*'dens'.*did you mean 'dense'\?"),
    "no YAML": (("entity: {", "entity: {{"), r"ranking.yaml:\d+: no valid YAML"),
}


@pytest.mark.parametrize(("change", "says"), FEATURE_MISTAKES.values(), ids=FEATURE_MISTAKES)
def test_feature_file(place, refused, change, says):
    edit_features(place, *change)
    refused(fit, place, says=says)
    refused(features_command, ["check", str(place / "ranking.yaml")], says=says)


# ------------------------------------------------------------------------ the experiment file
EXPERIMENT_MISTAKES = {
    "unknown section": ({"modle": {}}, r"run.yaml:\d+: modle: unknown key.*did you mean 'model'"),
    "unknown key": (
        {"data.batchsize": 8},
        r"run.yaml:\d+: data.batchsize: unknown key; allowed features, .*mean 'batch_size'",
    ),
    "unknown trainer key": ({"trainer.max_epoch": 1}, r"max_epoch: unknown key.*'max_epochs'"),
    "wrong type": (
        {"data.batch_size": "many"},
        r"data.batch_size: does not fit, got 'many'; allowed a whole number",
    ),
    "wrong trainer type": ({"trainer.max_epochs": "x"}, r"max_epochs: .*'x'.*whole number or null"),
    "missing": ({"data.batch_size": ...}, r"data.batch_size: is missing; add it"),
    "missing inside": ({RANKER: ...}, r"model.ranker: is missing; add it"),
    "unknown task": (
        {"model.class_path": "RankinTask"},
        r"unknown class, got 'RankinTask'; allowed RankingTask, SequenceTask; did you mean",
    ),
    "unknown model": (
        {f"{RANKER}.class_path": "DCNv3"},
        r"ranker.class_path: unknown class, got 'DCNv3'; allowed .*did you mean 'DCNv2'",
    ),
    "model of another task": (
        {f"{RANKER}.class_path": "SASRec", f"{RANKER}.init_args": {}},
        r"ranker.class_path: unknown class, got 'SASRec'; allowed DARE, DCNv2, DIN, DLRM, DeepFM",
    ),
    "two classes of a name": (
        {"model.init_args.optimizer.class_path": "Adam"},
        r"optimizer.class_path: several classes have this name, got 'Adam'; .*torch.optim.Adam",
    ),
    "unknown hyper-parameter": (
        {f"{RANKER}.init_args.num_cros_layers": 1},
        r"init_args.num_cros_layers: unknown key.*did you mean 'num_cross_layers'",
    ),
    "wrong hyper-parameter": (
        {f"{RANKER}.init_args.mlp": "wide"},
        r"init_args.mlp: does not fit, got 'wide'; allowed a list with a whole number each",
    ),
    "impossible hyper-parameter": ({f"{RANKER}.init_args.dropout": 2.0}, r"DCNv2: dropout: .*2.0"),
    "unknown optimizer": (
        {"model.init_args.optimizer.class_path": "torch.optim.Adamm"},
        r"got 'torch.optim.Adamm'; allowed .*did you mean 'torch.optim.Adam'",
    ),
    "impossible optimizer": (
        {"model.init_args.optimizer.init_args.lr": -1.0},
        r"optimizer: .*Invalid learning rate: -1.0; correct",
    ),
    "unknown table rule": (
        {"model.init_args.tables": {"optimizer": {"name": "adamm"}}},
        r"tables.optimizer.name: does not fit, got 'adamm'; allowed adagrad, rowwise_adagrad",
    ),
    "unknown sharded table": (
        {"model.init_args.tables": {"sharding": {"nope": "row_wise"}}},
        r"sharding.nope: no sharded table of this name",
    ),
    "follows": ({"data.seed": 1}, r"data.seed: follows from seed_everything; give that one"),
    "lanes": (
        {"data.batch_size": 30},
        r"data.batch_size: must be a multiple of .* 8, got 30; .*set data.batch_size: 32",
    ),
    "no lane": ({"data.num_lanes": 0}, r"data.num_lanes: is too small, got 0; allowed 1 and more"),
    "seed": ({"seed_everything": -1}, r"seed_everything: .*-1 is not in bounds, .*; correct"),
    "patience": ({"run.patience": -1}, r"run.patience: is too small, got -1"),
    "no epoch": ({"trainer.max_epochs": 0}, r"trainer.max_epochs: leaves nothing to train, got 0"),
    "trial": ({"trainer.fast_dev_run": True}, r"fast_dev_run: leaves no checkpoint.*max_steps 10"),
    "strategy": ({"trainer.strategy": "ddp"}, r"strategy: .*TorchRecStrategy, got 'ddp'"),
    "accelerator": ({"trainer.accelerator": "gpuu"}, r"trainer: .*accelerator='gpuu'"),
    "devices": ({"trainer.devices": 0}, r"trainer: .*devices=0"),
    "feature file": ({"data.features": "nope.yaml"}, r"nope.yaml: cannot be read: No such file"),
    "data": ({"data.data_dir": "nope"}, r"sources.events: no such file, got 'nope/events.parquet'"),
    "variable": ({"data.data_dir": "${NOPE}/x"}, r"variable NOPE is not set, got '\$\{NOPE\}/x'"),
    "other task": (
        {"model": {"class_path": "SequenceTask", "init_args": {"encoder": "SASRec"}}},
        r"features.history.pooling: a sequence task reads every event, got mean; allowed none",
    ),
}


@pytest.mark.parametrize(("changes", "says"), EXPERIMENT_MISTAKES.values(), ids=EXPERIMENT_MISTAKES)
def test_experiment_file(place, refused, changes, says):
    edit(place, **changes)
    refused(fit, place, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"run.yaml:1: must be a mapping, got an empty file"),
        ("data: [1\n", r"run.yaml:\d: no valid YAML"),
        ("run: {name: a}\nrun: {name: b}\n", r"run.yaml:2: run: duplicate key, first on line 1"),
    ],
)
def test_text_of_the_experiment_file(place, refused, text, says):
    (place / "run.yaml").write_text(text)
    refused(fit, place, says=says)


def test_all_mistakes_of_an_experiment_file_come_at_once(place, refused):
    edit(place, **{"data.batchsize": 1, "run.nam": "x", "trainer.max_epochs": "x"})
    refused(fit, place, says=("data.batchsize: ", "run.nam: ", "trainer.max_epochs: "))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--data.batch_siz", "8", "--seed=3", "--lr", "1", "--resume", "auto"],
            (
                r"--data.batch_siz: is no option; did you mean --data.batch_size\? .*--help",
                r"--seed: is no option; did you mean --seed_everything\? ",
                r"--lr: is no option; did you mean --model.init_args.optimizer.init_args.lr\? ",
                r"--resume: is no option; did you mean --run.resume\? ",
            ),
        ),
        (["--run.dir", "x"], r"--run.dir: is no option; allowed .*--run.name, .*--run.root, "),
        (["--nope"], r"^--nope: is no option; `python train.py fit --help` lists all$"),
        (["nope"], r"unrecognized arguments: nope; see .*--help"),
        (["--data.batch_size", "x"], r"data.batch_size: must be a whole number, got x"),
        (["--model.ranker", "DCNv3"], r"model.ranker: unknown class, got DCNv3; allowed a "),
        (["--model.ranker.init_args.mpl", "3"], r"model.ranker: .*'mpl' is not accepted"),
        (["-c", "nope.yaml"], r"nope.yaml: cannot be read: No such file"),
        (["--ckpt_path", "last"], r"ckpt_path: there is no such checkpoint, got 'last'"),
        (["--ckpt_path", "nope"], r"no such checkpoint, got 'nope'.*; give one of them"),
    ],
)
def test_arguments(place, refused, arguments, says):
    refused(fit, place, *arguments, says=says)


def test_verbs(place, refused):
    refused(train_command, "fitt", says="invalid choice: 'fitt'")
    refused(train_command, says="fit,validate,test")
    assert recsys_command("scoer") == 2


def test_fields_of_different_width(place, refused):
    edit(place, **{RANKER: {"class_path": "DeepFM"}})
    edit_features(place, 'kind: categorical, split: "|"', 'kind: categorical, dim: 4, split: "|"')
    refused(fit, place, says=r"DeepFM: needs all fields of one width, got .*tags: 4.*one `dim`")


def test_a_refused_run_leaves_the_earlier_one_in_its_place(inputs, capfd):
    before = files(inputs / "runs")
    assert train_command("fit", "-c", inputs / "done.yaml", "--trainer.devices", "0") == 2
    assert files(inputs / "runs") == before
