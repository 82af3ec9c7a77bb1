"""The benchmarks run, at sizes that say nothing about speed, and their tables say what was read."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml

from features.load import parse_feature_set
from features.yaml_tree import parse_yaml

REPOSITORY = Path(__file__).parent.parent
METRICS = {"AUC": "auc/liked", "logloss": "logloss/liked"}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module


@pytest.fixture
def root(tmp_path):
    """Unified has seeds 0 and 1 tested and 2 cut off before its test, separate nothing."""
    for seed, auc, logloss in ((0, 0.88, 0.5), (1, 0.90, 0.25), (2, None, None)):
        report = {"epoch": 4 + seed, "train_s": 60.4 + seed, "val": {"val/auc/liked": 0.99}}
        if auc is not None:
            report["test"] = {"test/auc/liked": auc, "test/logloss/liked": logloss}
        directory = tmp_path / f"unified_s{seed}"
        directory.mkdir()
        (directory / "metrics.json").write_text(json.dumps(report))
    return tmp_path


def test_the_table_has_mean_and_deviation_of_tested_runs(benchmark, root):
    lines = benchmark("seeds").table_lines(
        ["unified", "separate"], seeds=[0, 1, 2], root=root, metrics=METRICS, published={}
    )
    # 0.02 / sqrt(2) and 0.25 / sqrt(2): deviations of a sample of two.
    assert lines[0] == "| variant | seeds | test AUC | test logloss | best epoch | s to it |"
    assert lines[2] == "| unified | 0, 1 | 0.8900 ± 0.0141 | 0.3750 ± 0.1768 | 4, 5 | 60, 61 |"
    assert lines[3] == "| separate | - | - | - | - | - |"


def test_a_single_seed_has_no_deviation(benchmark, root):
    lines = benchmark("seeds").table_lines(
        ["unified"], seeds=[1], root=root, metrics=METRICS, published={}
    )
    assert lines[2] == "| unified | 1 | 0.9000 | 0.2500 | 5 | 61 |"


def test_only_what_was_not_tested_is_trained(benchmark, root, monkeypatch):
    seeds, commands = benchmark("seeds"), []

    def run(command, **_):
        commands.append(" ".join(command[1:]))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(seeds.subprocess, "run", run)
    experiments = {"unified": "a.yaml", "separate": "b.yaml"}
    seeds.train_missing(experiments, seeds=[1, 2], root=root)
    assert commands == [
        f"train.py fit -c {file} --seed_everything {seed} --run.root {root} --run.name {name}"
        for file, seed, name in (
            ("b.yaml", 1, "separate_s1"),
            ("a.yaml", 2, "unified_s2"),
            ("b.yaml", 2, "separate_s2"),
        )
    ]


def test_a_seed_draws_split_and_hashes(benchmark, root, monkeypatch):
    seeds, tables = benchmark("seeds"), benchmark("ml1m_tables")
    contents = {}

    def run(command, **_):
        file = Path(command[command.index("--data.features") + 1])
        contents[file.stem] = parse_yaml(file.read_text(), name=file.name).value
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(seeds.subprocess, "run", run)
    experiments = tables.EXPERIMENTS
    seeds.train_missing(experiments, seeds=[4, 5], root=root, feature_file=tables.feature_file)
    assert set(contents) == {f"{name}_s{seed}" for name in experiments for seed in (4, 5)}
    for name, content in contents.items():
        assert content["split"]["seed"] == int(name[-1])
        assert len(parse_feature_set(yaml.safe_dump(content), name=name).features) == 6
    shared = contents["unified_791kB_s5"]["tables"]["shared"]
    assert shared == {"scheme": "unified", "rows": 6592, "dim": 30, "seed": 5}
    assert contents["separate_158kB_s4"]["tables"]["shared"]["rows"] == 1317


def test_a_failed_run_ends_the_benchmark(benchmark, root, monkeypatch):
    seeds = benchmark("seeds")
    monkeypatch.setattr(seeds.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    with pytest.raises(SystemExit, match=r"separate_s0: train\.py ended with code 2"):
        seeds.train_missing({"separate": "b.yaml"}, seeds=[0], root=root)


@pytest.mark.parametrize("name", ["ml1m_tables", "sequence_quality", "history_quality"])
def test_quality_benchmarks_name_experiments_that_exist(benchmark, name, tmp_path):
    experiments = benchmark(name).EXPERIMENTS
    assert all((REPOSITORY / file).is_file() for file in experiments.values())
    printed = run_benchmark(name, "--report", "--root", str(tmp_path)).stdout
    assert [line.split(" | ")[0] for line in printed.splitlines()[2:]] == [
        f"| {variant}" for variant in experiments
    ]


@pytest.mark.parametrize(("largest_ms", "code"), [(1.4, 0), (1.6, 1)])
def test_a_step_that_grows_with_the_rows_fails(benchmark, largest_ms, code, capsys):
    times_ms = {
        ("sharded", 10): [1.0, 2.0, 4.0],
        ("sharded", 1000): [1.0 * largest_ms, 2.0 * largest_ms, 99.0],  # one round is disturbed
        ("replicated", 10): [1.0, 1.0, 1.0],
        ("replicated", 1000): [100.0, 100.0, 100.0],  # which may grow
    }
    assert benchmark("table_step_time")._report(times_ms, 10) == code
    ratios = [float(line.split()[3]) for line in capsys.readouterr().out.splitlines()[1:5]]
    assert ratios == [1.0, largest_ms, 1.0, 100.0]


@pytest.mark.slow
def test_step_time_runs():
    sizes = ["--rows", "300", "500", "--rounds", "1", "--steps", "2"]
    ran = run_benchmark("table_step_time", *sizes)
    assert ran.returncode in (0, 1)
    cases = [tuple(line.split()[:2]) for line in ran.stdout.splitlines()[1:5]]
    assert cases == [(kind, rows) for kind in ("sharded", "replicated") for rows in ("300", "500")]


@pytest.mark.slow
def test_history_search_runs():
    sizes = ["--widths", "8", "4", "--length", "30", "--items", "50", "--rounds", "1"]
    ran = run_benchmark("history_search", *sizes)
    assert ran.returncode == 0, ran.stderr
    cases = [line.split()[1:4:2] for line in ran.stdout.splitlines()[2:]]
    assert cases == [[c, w] for c in ("1", "100") for w in ("8", "4")]


@pytest.mark.slow
def test_loader_speed_runs():
    ran = run_benchmark("loader_speed", "--rows", "2000", "--batch-size", "256", "--epochs", "1")
    assert ran.returncode == 0
    assert len(ran.stdout.splitlines()) == 10


@pytest.mark.slow
def test_tables_runs(tmp_path):
    ran = run_benchmark("tables", "--quick", "--json", tmp_path / "figures.json")
    assert ran.returncode == 0, ran.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    by_case = {(c["kind"], c["scheme"], c["optimizer"], c["dtype"]): c for c in figures["cases"]}
    assert len(by_case) == len(ran.stdout.splitlines()) - 2 == 15
    reference = by_case["torch sparse", "full", "sgd", "fp32"]
    assert reference["ratio"] == 1
    # 16,384 rows of 16 numbers of 4 bytes, read twice and written once.
    expected = 3 * 16384 * 16 * 4 / reference["step_s"]
    assert reference["bytes_per_s"] == pytest.approx(expected)
    half = by_case["fbgemm", "full", "rowwise_adagrad", "fp16"]
    expected = 16384 * (3 * 16 * 2 + 2 * 4) / half["step_s"]  # and a number of state
    assert half["bytes_per_s"] == pytest.approx(expected)
    assert figures["memory_bytes_per_s"] > 1e8


@pytest.mark.slow
def test_all_of_the_gpu_benchmark_runs_on_a_cpu(tmp_path):
    ran = run_benchmark("gpu", "--device", "cpu", "--quick", "--out", tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert all(case["is_right"] for case in report["compared"].values())
    assert len(report["compared"]) == 9
    assert report["sections"]["speed"]["ahead_ratio"] > 0
    text = (tmp_path / "gpu.md").read_text()
    assert "| dlrm adagrad 32-true | 0.0e+00; ahead: equal | right |" in text
    assert "no such kernel on a CPU" in text
    assert "speed: share of the triad's bandwidth" in text


@pytest.mark.slow
def test_a_section_of_the_gpu_benchmark_runs(tmp_path):
    options = ["--section", "speed", "--device", "cpu", "--quick", "--out", tmp_path / "speed.json"]
    ran = run_benchmark("gpu", *options)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "speed.json").read_text())
    # 26 rows of 8 numbers of 4 bytes, read twice and written once, and the state of each.
    moved = 26 * (3 * 8 * 4 + 2 * 4)
    assert found["looked_up_bytes_per_s"] == pytest.approx(found["samples_per_s_ahead"] * moved)
    assert [len(found["turns"][mode]) for mode in ("plain", "ahead")] == [4, 4]


def numbers(loss, *, ahead_gap=0.0, is_repeatable=True, table=4.0):
    return {
        "losses": [0.5, loss],
        "squares": {"f0": table},
        "ahead_is_equal": ahead_gap == 0,
        "ahead_gap": ahead_gap,
        "is_repeatable": is_repeatable,
    }


@pytest.mark.parametrize(
    ("found", "said", "is_right"),
    [
        (numbers(0.25), "0.0e+00; ahead: equal", True),
        (numbers(0.25009), "9.0e-05; ahead: equal", True),
        (numbers(0.2502), "2.0e-04; ahead: equal", False),
        (numbers(0.25, table=4.1), "0.0e+00; ahead: equal", False),
        (numbers(0.25, ahead_gap=1e-6), "0.0e+00; ahead: 1.0e-06 apart", False),
        (
            numbers(0.25, ahead_gap=1e-6, is_repeatable=False),
            "0.0e+00; ahead: 1.0e-06 apart; it does not repeat itself either",
            True,
        ),
        ({"error": "Traceback\nRuntimeError: no"}, "RuntimeError: no", False),
        ({"skipped": "no such kernel"}, "no such kernel", True),
    ],
)
def test_gpu_numbers_are_compared_with_the_cpu(benchmark, found, said, is_right):
    gpu = benchmark("gpu")
    reference = {case.name: numbers(0.25) for case in gpu.CASES}
    name = "dlrm sgd 32-true"
    compared = gpu.compared(reference, {**reference, name: found})
    assert compared[name] == {"said": said, "is_right": is_right}
    assert sum(not case["is_right"] for case in compared.values()) == (not is_right)


def test_a_section_that_fails_is_reported_and_the_rest_goes_on(benchmark, monkeypatch, tmp_path):
    gpu = benchmark("gpu")

    def run(command, **_):
        return SimpleNamespace(returncode=1, stderr="Traceback\nRuntimeError: no kernel image")

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    assert gpu.main() == 1
    text = (tmp_path / "gpu.md").read_text()
    assert text.count("error: RuntimeError: no kernel image") == len(gpu.SECTIONS)


@pytest.mark.slow
def test_id_checks_runs():
    ran = run_benchmark("id_checks", "--batch-sizes", "8", "16", "--pairs", "2")
    assert ran.returncode == 0, ran.stderr
    assert [line.split()[0] for line in ran.stdout.splitlines()[1:]] == ["8", "16"]


def test_the_tables_of_the_trainer_have_medians_of_ratios_and_milliseconds(benchmark):
    cost = benchmark("trainer_cost")
    turns = [(0.2, 0.4, 0.1, 0.1), (0.4, 0.4, 0.4, 0.1), (0.6, 0.4, 0.1, 0.8)]
    case = {
        "model": "DCNv2 64-32",
        "batch_size": 1024,
        "steps": 100,
        "rounds": [{"trainer_s": t[:2], "bare_s": t[2:]} for t in turns],
        "parts": [{"backward": s, "logging": 0.1} for s in (0.3, 0.5, 0.4)],
    }
    # By the clock 2, 1 and 6; of the processor 4, 4 and 0.5.
    expected = "| DCNv2 64-32 | 1,024 | 1.00 | 4.00 | 2.00 | 4.00 |"
    assert cost.ratio_lines([case])[2:] == [expected]
    lines = cost.parts_lines([case])
    assert lines[2:4] == ["| backward | 4.000 |", "| logging | 1.000 |"]
    assert len(lines) == 6


@pytest.mark.slow
def test_trainer_cost_runs(tmp_path):
    ran = run_benchmark("trainer_cost", "--quick", "--json", tmp_path / "figures.json")
    assert ran.returncode == 0, ran.stderr
    [case] = json.loads((tmp_path / "figures.json").read_text())["cases"]
    [turns], [parts] = case["rounds"], case["parts"]
    assert turns["trainer_s"][0] > 0 < turns["bare_s"][0]
    expected = {"forward and loss", "backward", "optimiser", "taking a batch", "logging"}
    assert expected <= parts.keys()
    assert all(seconds >= 0 for seconds in parts.values())


def run_benchmark(name, *arguments):
    return subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / f"{name}.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.data
def test_movies_by_days_have_the_published_rows(tmp_path):
    run_benchmark("ml1m_days", "--out", str(tmp_path / "days"))
    split = pl.read_parquet(tmp_path / "days" / "ratings.parquet")["split"]
    counts = dict(split.value_counts().iter_rows())
    assert counts == {"train": 983_836, "val": 5_190, "test": 5_176}
    assert {file.name for file in (tmp_path / "days").iterdir()} == {
        "ratings.parquet", "users.parquet", "items.parquet",
    }  # fmt: skip


def test_users_and_items_of_few_likes_are_left_out_until_all_have_enough(benchmark):
    # Item 9 has five likes, one of them by user 7, who has no other: both leave.
    liked = [(user, item) for user in range(5) for item in range(5)]
    liked += [(user, 9) for user in (0, 1, 2, 3, 7)]
    ratings = pl.DataFrame(liked, schema=["user_id", "item_id"], orient="row").with_columns(
        rating=pl.lit(4)
    )
    more = pl.DataFrame({"user_id": [7, 0], "item_id": [0, 0], "rating": [3, 3]})
    found = benchmark("ml1m_days").with_enough_likes(
        pl.concat([ratings, more], how="vertical_relaxed")
    )
    assert set(found["user_id"]) == {0, 1, 2, 3, 4}
    assert set(found["item_id"]) == {0, 1, 2, 3, 4}
    assert len(found) == 26  # the rating of 3 of user 0 stays


@pytest.mark.slow
def test_training_speed_runs_and_its_table_has_medians_of_ratios(benchmark, tmp_path):
    speed = benchmark("training_speed")
    data = speed.write_data(tmp_path / "data", rows=200, num_events={"train": 64, "val": 64})
    settings = {**speed.SETTINGS, "model": "DLRM", "rows": 200, "seed": 0, "threads": 1}
    settings |= {"seconds": 0.0, "batch_size": 32, "precision": "32-true", "passes": 0}
    out = tmp_path / "out"
    report = speed.run(speed.our_command(data, out, settings), out, settings)
    assert len(report["ended_s"]) == 20
    assert report["num_dense"] == (45 + 1) * 400 + 2 * 401 * 400 + 401
    runs = {
        ("DCNv2", 10, side): [
            {"ended_s": [0.0] * 5 + [0, s, 2 * s], "peak_bytes": 2**20, "num_dense": 7}
            for s in seconds
        ]
        for side, seconds in (("recsys", (1.0, 2.0, 1.0)), ("FuxiCTR", (4.0, 4.0, 16.0)))
    }
    ours, theirs = speed.table_lines(runs, batch_size=64)[2:]
    assert ours == "| DCNv2 | 10 | recsys | 64 | 4.00 | 1 MiB | 7 |"
    assert theirs == "| DCNv2 | 10 | FuxiCTR | 16 |  | 1 MiB | 7 |"


def test_the_table_of_scoring_has_medians_of_ratios(benchmark):
    rates = {"recsys, 1x1": [10.0, 20.0, 90.0], "FuxiCTR": [10.0, 40.0, 30.0]}
    peaks = {"recsys, 1x1": 3 * 2**20}
    assert benchmark("scoring_speed").table_lines(rates, peaks)[2:] == [
        "| recsys, 1x1 | 20 | 1.00 | 3 MiB |",
        "| FuxiCTR | 30 |  |  |",
    ]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no Linux")
def test_peak_memory_is_that_of_a_process_with_its_children(benchmark):
    holds = "import time; held = bytearray(2**27); held[::4096] = b'x' * 2**15; time.sleep(1)"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holds!r}])"
    process = subprocess.Popen([sys.executable, "-c", f"{starts}; {holds}"])
    with benchmark("peak_memory").PeakMemory(process.pid) as memory:
        process.wait()
    # One after the other, not both at a time.
    assert 2**27 < memory.num_bytes < 2 * 2**27


@pytest.mark.slow
def test_scoring_speed_runs():
    sizes = ["--events", "2000", "--rows", "200", "--rounds", "1", "--shapes", "1x1xbf16"]
    printed = run_benchmark("scoring_speed", *sizes).stdout
    assert printed.splitlines()[-1].startswith("| recsys, 1x1xbf16 | ")
