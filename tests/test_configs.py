"""Every YAML in configs/ is loaded; every command of the README is one that exists."""

import re
from pathlib import Path

import pytest

from features.load import load_feature_set
from train import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXPERIMENTS = sorted((ROOT / "configs" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "features").glob("*.yaml")), ids=str)
def test_feature_files_load(file):
    assert load_feature_set(file).features


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_experiments_parse_and_name_files_that_exist(file, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(file), "--print_config"])
    assert stop.value.code == 0
    [features] = re.findall(r"^  features: (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert (ROOT / features).is_file()


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_experiments_begin_with_source_and_command(file):
    header = re.match(r"(#.*\n)+", file.read_text()).group()
    commands = ("python train.py fit", "python -m recsys search")
    assert any(f"{command} -c configs/experiment/{file.name}" in header for command in commands)


def test_the_readme_is_short_and_its_make_verbs_exist():
    assert len(README.splitlines()) < 200
    verbs = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) <= set(verbs)


def test_the_tree_of_the_readme_exists():
    tree = README.split("## The tree")[1].split("```")[1]
    names = re.findall(r"[\w/]+\.py|[a-z_]+/(?= )", tree)
    assert len(names) > 25
    for name in names:
        assert any((ROOT / place / name).exists() for place in PLACES), name


PLACES = ("", "features", "recsys", "recsys/tables")
