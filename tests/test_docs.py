"""The pages of docs/ say what the code does: keys, defaults, examples, messages, links."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from features.checking.collisions import Collisions
from features.checking.finding import Finding, Kind
from features.checking.result import as_json, check_file
from features.errors import RecsysError
from features.fit import fit_file
from features.load import parse_feature_set
from features.spec import FeatureSet
from features.spec_base import Spec
from recsys.__main__ import VERBS
from recsys.bundle import CARD, MANIFEST, MODEL, SCHEMA, SEARCH
from recsys.bundle import TABLES as TABLES_FILE
from recsys.data.module import RecsysData
from recsys.data.simulate import SimulatorConfig, simulate
from recsys.tables.config import FusedOptimizer, TablesConfig
from recsys.training.ranking import RankingTask
from recsys.training.run import RunConfig
from recsys.training.sequence import SequenceTask
from train import main

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docs").glob("*.md"))
PAGES = {file.stem: file.read_text() for file in FILES}
FEATURE_FILE = PAGES["feature_file"] + PAGES["tables"]
TRAINING, SCORING = PAGES["training"], PAGES["scoring"]
REQUIRED = inspect.Parameter.empty
yaml = YAML(typ="safe", pure=True)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def is_feature_file(block):
    return re.search(r"^features:", block, re.MULTILINE) is not None


def section(page, word):
    """The text below the heading that has this word in backticks."""
    [found] = [part for part in page.split("\n## ") if f"`{word}`" in part.splitlines()[0]]
    return found


# ------------------------------------------------------------------------------ keys, defaults
def documented(text):
    """Default as written by key, from the tables that have such a column."""
    found = {}
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *rows = [re.split(r" *\| *", row.strip("| ")) for row in table.splitlines()]
        if header[-1] != "default":
            continue
        for row in rows:
            keys = re.findall(r"`([^`]+)`", row[0])
            defaults = [row[-1]]
            if len(keys) > 1:  # one for all, or as many, by the commas outside of backticks
                defaults = re.split(r", (?=(?:[^`]*`[^`]*`)*[^`]*$)", row[-1])
            assert len(defaults) in (1, len(keys)), row
            found |= zip(keys, defaults * (len(keys) if len(defaults) == 1 else 1), strict=True)
    return found


def says(written, default):
    """Whether a cell gives a default: a value, `required`, or words in the place of None."""
    value = re.fullmatch(r"`([^`]+)`", written)
    if default is REQUIRED or default is None:
        return value is None and (written == "required") == (default is REQUIRED)
    if value is None:
        return False
    if isinstance(default, type):
        return value[1].rpartition(".")[2] == default.__name__
    return yaml.load(value[1]) == (list(default) if isinstance(default, tuple) else default)


# Section and prefix of the keys of each class; inherited keys stand where their own class does.
PLACES = {
    "EventSource": ("sources", "events."),
    "AttributeSource": ("sources", "NAME."),
    "Entity": ("entity", ""),
    "Time": ("entity", "time."),
    "Label": ("label", ""),
    "RandomSplit": ("split", "random."),
    "TemporalSplit": ("split", "temporal."),
    "LeaveOneOutSplit": ("split", "leave_one_out."),
    "ColumnSplit": ("split", "column."),
    "Defaults": ("defaults", "defaults."),
    "TableBase": ("tables", ""),
    "StagedTable": ("tables", ""),
    "PlannedTable": ("tables", ""),
    "OptEmbedTable": ("tables", "optembed."),
    "PrunedTable": ("tables", "pruned."),
    "FullTable": ("tables", ""),
    "SizedTable": ("tables", ""),
    "HashTable": ("tables", ""),
    "UnifiedTable": ("tables", "unified."),
    "MultiplexedTable": ("tables", ""),
    "MultihashTable": ("tables", "multihash."),
    "PQTable": ("tables", "pq."),
    "CCETable": ("tables", "cce."),
    "DedupTable": ("tables", "dedup."),
    "MergedTable": ("tables", "merged."),
    "DPQTable": ("tables", "dpq."),
    "MGQETable": ("tables", "mgqe."),
    "QRTable": ("tables", "qr."),
    "RobeTable": ("tables", "robe."),
    "HashedNetTable": ("tables", "hashednet."),
    "TTTable": ("tables", "tt."),
    "DHETable": ("tables", "dhe."),
    "MixedDimTable": ("tables", "mixed_dim."),
    "QuantizedTable": ("tables", "quantized."),
    "DeepLightTable": ("tables", "deeplight."),
    "PepTable": ("tables", "pep."),
    "AutoSrhTable": ("tables", "autosrh."),
    "MaskedTable": ("tables", "masked."),
    "DecoupledTable": ("tables", "decoupled."),
    "VocabEncoding": ("features", "vocab."),
    "HashEncoding": ("features", "hash."),
    "IdentityEncoding": ("features", "identity."),
    "FeatureBase": ("features", ""),
    "ColumnFeature": ("features", ""),
    "EmbeddedFeature": ("features", ""),
    "Categorical": ("features", "categorical."),
    "Bucketized": ("features", "bucketized."),
    "Dense": ("features", "dense."),
    "Vector": ("features", "vector."),
    "Sequence": ("features", "sequence."),
}
TAGS = ("kind", "scheme")  # tell the classes of a union apart


def specs(annotation):
    """All classes of the feature file in a type."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        inner = (field.annotation for field in annotation.model_fields.values())
        return {annotation}.union(*map(specs, inner))
    return set().union(*map(specs, get_args(annotation)))


SPECS = sorted(specs(FeatureSet) - {FeatureSet}, key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", SPECS, ids=lambda cls: cls.__name__)
def test_the_keys_of_feature_files(cls):
    for key, info in cls.model_fields.items():
        owner = next(c for c in cls.__mro__ if key in inspect.get_annotations(c))
        word, prefix = PLACES[owner.__name__]
        text = section(FEATURE_FILE, word)
        if key in TAGS:
            [tag] = get_args(info.annotation)
            assert f"`{tag}`" in text or f"`{tag}." in text, tag
            continue
        default = REQUIRED if info.is_required() else info.default
        if isinstance(default, Spec):
            default = next(getattr(default, tag) for tag in TAGS if hasattr(default, tag))
        written = documented(text)[prefix + key]
        assert says(written, default), (key, written, default)


def test_every_key_at_the_top_has_a_section():
    for key in FeatureSet.model_fields:
        assert section(FEATURE_FILE, key)


def test_no_key_of_feature_files_is_documented_that_is_gone():
    owners = {base for cls in SPECS for base in cls.__mro__ if base.__name__ in PLACES}
    known = {
        PLACES[owner.__name__][1] + key
        for owner in owners
        for key in inspect.get_annotations(owner)
    }
    assert documented(FEATURE_FILE).keys() <= known | set(TAGS)


def parameters(cls):
    found = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    return {name: parameter.default for name, parameter in found.items()}


def fields(cls, prefix=""):
    return {
        prefix + field.name: getattr(cls(), field.name)
        for field in dataclasses.fields(cls)
        if not dataclasses.is_dataclass(getattr(cls(), field.name))
    }


RUN_FILE = {
    "data": parameters(RecsysData),
    "model": parameters(SequenceTask) | parameters(RankingTask),
    "model.init_args.tables": fields(TablesConfig) | fields(FusedOptimizer, "optimizer."),
    "run": fields(RunConfig),
}


@pytest.mark.parametrize("word", RUN_FILE)
def test_the_keys_of_run_files(word):
    written, wanted = documented(section(TRAINING, word)), RUN_FILE[word]
    assert written.keys() == wanted.keys()
    for key in wanted.keys() - {"tables"}:  # whose keys have a section of their own
        assert says(written[key], wanted[key]), (key, written[key], wanted[key])


# ----------------------------------------------------------------------------------- examples
WHOLE = [b for page in PAGES.values() for b in blocks(page, "yaml") if is_feature_file(b)]
FIRST = next(filter(is_feature_file, blocks(FEATURE_FILE, "yaml")))
PARTS = [b for b in blocks(FEATURE_FILE, "yaml") if not is_feature_file(b)]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The log that the page's messages are about."""
    directory = tmp_path_factory.mktemp("log")
    size = re.search(r"simulate (--num-events .*?)`", FEATURE_FILE)[1]
    options = {k.replace("-", "_"): int(v) for k, v in re.findall(r"--([\w-]+) (\d+)", size)}
    simulate(SimulatorConfig(**options), directory)
    return directory


def fit(text, log):
    return fit_file(parse_feature_set(text, name="features.yaml"), log)


@pytest.mark.parametrize("block", WHOLE)
def test_feature_files_fit_a_log(block, log):
    assert fit(block, log).feature_set.features


@pytest.mark.parametrize("block", PARTS)
def test_parts_of_feature_files_fit_into_the_first(block, log, tmp_path):
    content, part = yaml.load(FIRST), yaml.load(block)
    if isinstance(part, list):
        part = {"features": content["features"] + part}
    yaml.dump(content | part, tmp_path / "features.yaml")
    assert fit((tmp_path / "features.yaml").read_text(), log).feature_set.features


def mistakes():
    """(changed line, its message) pairs."""
    [text] = blocks(PAGES["feature_file"].split("## Five mistakes")[1], "text")
    lines = [re.sub(r" +# .*", "", line) for line in text.splitlines()]
    return list(zip(lines[::2], lines[1::2], strict=True))


@pytest.mark.parametrize(("line", "message"), mistakes())
def test_a_mistake_gives_the_message_of_the_page(line, message, log):
    start = re.match(r"  - \{name: \w+,|\w+:", line)[0]
    [right] = [other for other in FIRST.splitlines() if other.startswith(start)]
    with pytest.raises(RecsysError) as raised:
        fit(FIRST.replace(right, line), log)
    [found] = raised.value.mistakes
    assert found.startswith(message.removesuffix("...")), found


@pytest.mark.parametrize("block", [b for b in blocks(TRAINING, "yaml") if not is_feature_file(b)])
def test_run_files_parse(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    (tmp_path / "run.yaml").write_text(block)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(tmp_path / "run.yaml"), "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


def test_commands_name_verbs_and_files_that_exist():
    commands = "\n".join(block for page in PAGES.values() for block in blocks(page, "bash"))
    assert set(re.findall(r"-m recsys ([\w-]+)", commands)) <= VERBS.keys()
    files = set(re.findall(r"configs/\S+", commands))
    assert files
    assert all((ROOT / file).is_file() for file in files)


@pytest.mark.parametrize("block", blocks(SCORING, "python"))
def test_python_calls_what_exists(block):
    tree, names = ast.parse(block), {}
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "scoring.md", "exec"), names)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in names:
            called = inspect.signature(names[call.func.id])
            called.bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
    for method in re.findall(r"scorer\.(\w+)\(", SCORING):
        assert callable(getattr(names["Scorer"], method))


def test_the_keys_of_check_as_json(log):
    feature_set = parse_feature_set(FIRST, name="features.yaml")
    result = check_file(feature_set, log)
    found = as_json(result, file=Path("features.yaml"), data_dir=log)
    rows = re.findall(
        r"^\| (`.*?) \| (.*) \|$", section(PAGES["first_run"], "--json"), re.MULTILINE
    )
    said = {key: means for keys, means in rows for key in re.findall(r"`(\w+)`", keys)}
    assert said.keys() == found.keys()
    parts = {"collisions": {field.name for field in dataclasses.fields(Collisions)}}
    parts |= {"warnings": {field.name for field in dataclasses.fields(Finding)}}
    parts |= {key: set(found[key][0]) for key in ("features", "tables")}
    parts |= {key: set(found[key]) for key in ("rows", "memory")}
    for key, names in parts.items():
        assert {f"`{name}`" for name in names} <= set(
            re.findall(r"`\w+`", said[key] + said["rows"])
        )


def test_the_kinds_of_warnings_are_listed():
    listed = re.findall(r"^\| `(\w+)` \|", section(PAGES["first_run"], "check"), re.MULTILINE)
    assert sorted(listed) == sorted(get_args(Kind))


def test_the_files_of_a_bundle_are_listed():
    for name in (CARD, MANIFEST, MODEL, SCHEMA + "/", SEARCH, TABLES_FILE):
        assert f"| `{name}` |" in PAGES["bundles"]


# -------------------------------------------------------------------------------------- pages
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_links_resolve(file):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
        assert (file.parent / link).exists(), link


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_pages_are_short_and_linked(file):
    assert len(file.read_text().splitlines()) < 180
    assert f"docs/{file.name}" in (ROOT / "README.md").read_text()
