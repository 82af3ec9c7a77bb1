"""Files of configs/launch: their syntax, the command lines in them, and those that run here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser
from training.runs import write_inputs
from training.test_interruption import run_file

from recsys.checkpoint import read_manifest
from recsys.score import _parser, _share
from train import main

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "launch"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch")])
JOBS = sorted(FOLDER.glob("*.yaml"))
PAGE = (ROOT / "docs" / "launching.md").read_text()


def commands(file):
    """The words of each command line of ours in a file, from python or torchrun on."""
    if file.suffix == ".yaml":
        lines = list(containers(yaml.safe_load(file.read_text())))
    else:
        text = re.sub(r"\\\n\s*", "", file.read_text())
        uncommented = [line for line in text.splitlines() if not line.startswith("#")]
        lines = [
            shlex.split(line) for line in uncommented if "torchrun" in line or "python" in line
        ]
    for words in lines:
        start = next(n for n, word in enumerate(words) if word in ("python", "torchrun"))
        yield [word for word in words[start:] if word not in ("$@", "&")]


def containers(content):
    """Command lines of all containers below some content."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from [value] if key == "command" else containers(value)
    elif isinstance(content, list):
        for item in content:
            yield from containers(item)


def filled_in(words):
    """With what the shell, SLURM or Kubernetes would put in."""
    known = {"$processes": "2", "$SLURM_ARRAY_TASK_ID": "3", "$SLURM_ARRAY_TASK_COUNT": "8"}
    for name, value in {**known, "$(PART)": "7"}.items():
        words = [word.replace(name, value) for word in words]
    return words


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda f: f.name)
def test_bash_reads_the_scripts(file):
    subprocess.run(["bash", "-n", file], check=True)
    assert os.access(file, os.X_OK) == (file.suffix == ".sh")


@pytest.mark.parametrize("file", [*SCRIPTS, *JOBS], ids=lambda f: f.name)
def test_command_lines_are_ones_of_ours(file, capsys):
    found = [filled_in(words) for words in commands(file)]
    assert found
    for words in found:
        if words[0] == "torchrun":
            options = get_args_parser().parse_args(words[1:])
            words = ["python", options.training_script, *options.training_script_args]
        if words[1] == "train.py":
            if "-c" not in words:
                words += ["-c", "configs/experiment/demo.yaml"]
            assert words[-2:] == ["-c", "configs/experiment/demo.yaml"] or "auto" in words
            with pytest.raises(SystemExit) as stop:
                main([*words[2:], "--print_config"])
            assert stop.value.code == 0
            assert "resume: auto" in capsys.readouterr().out
        else:
            assert words[1:4] == ["-m", "recsys", "score"]
            assert _share(_parser().parse_args(words[4:]).part)[1] == 8


@pytest.mark.parametrize("file", JOBS, ids=lambda f: f.name)
def test_jobs_say_how_often_they_begin_again(file):
    content = yaml.safe_load(file.read_text())
    spec = content["spec"]
    if content["kind"] == "PyTorchJob":
        machines = spec["pytorchReplicaSpecs"]
        assert {m["restartPolicy"] for m in machines.values()} == {"OnFailure"}
        [words] = {tuple(words) for words in commands(file)}
        count = sum(m["replicas"] for m in machines.values())
        assert words[words.index("--trainer.num_nodes") + 1] == str(count)
        assert words[words.index("--trainer.devices") + 1] == spec["nprocPerNode"]
        return
    assert content["apiVersion"] == "batch/v1"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # as podFailurePolicy needs it
    [rule] = spec["podFailurePolicy"]["rules"]
    [container] = spec["template"]["spec"]["containers"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }


def test_sizes_of_the_slurm_script_agree():
    text = (FOLDER / "train.sbatch").read_text()
    [words] = commands(FOLDER / "train.sbatch")
    for option, key in (("nodes", "num_nodes"), ("ntasks-per-node", "devices")):
        [value] = re.findall(rf"^#SBATCH --{option}=(\d+)$", text, re.MULTILINE)
        assert words[words.index(f"--trainer.{key}") + 1] == value


def test_the_page_names_every_file():
    assert set(re.findall(r"configs/launch/([\w.]+\w)", PAGE)) == {
        file.name for file in FOLDER.iterdir()
    }


# ---------------------------------------------------------------------------- those that run here
def launched(directory, script, *arguments):
    """Exit code and output, with the python of this test."""
    of_launchers = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK")
    environment = {k: v for k, v in os.environ.items() if k not in of_launchers}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [FOLDER / script, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def inputs(tmp_path):
    return write_inputs(tmp_path / "inputs")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_a_run_that_is_stopped_goes_on_to_its_end(inputs, devices):
    file = run_file(inputs, "stopped", step=4, rank=devices - 1)
    code, said = launched(inputs, "train.sh", "-c", file, "--trainer.devices", devices)
    assert code == 0, said
    assert "no whole checkpoint, so training starts anew" in said
    assert re.search(r"stopped by (SIGTERM|another process) at step 5; ", said)
    assert "training goes on from last.ckpt, step 5" in said
    assert read_manifest(inputs / "runs/stopped/checkpoints/last.ckpt").step == 18


def test_a_mistake_ends_the_script(inputs):
    file = run_file(inputs, "wrong")
    file.write_text(file.read_text().replace("batch_size: 64", "batch_size: 60"))
    code, said = launched(inputs, "train.sh", "-c", file)
    assert code == 2
    assert said.count("data.batch_size: must be a multiple of data.num_lanes") == 1


def stand_in(folder, body):
    """A `python` that writes down its arguments each time it is started."""
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/bash\necho "$@" >> {folder}/started\n{body}\n')
    (folder / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    # Where tests run in the background INT is ignored, and no script can change that for itself.
    command = ["env", "--default-signal=INT", FOLDER / "train.sh", "-c", "a b.yaml"]
    done = subprocess.run(command, env=environment, check=False, timeout=60)
    return done.returncode, (folder / "started").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 2, 1, 137])
def test_the_script_goes_on_after_75_alone(tmp_path, code):
    body = f"[ $(wc -l < {tmp_path}/bin/started) -lt 3 ] && exit 75; exit {code}"
    assert stand_in(tmp_path / "bin", body) == (
        code,
        ["train.py fit -c a b.yaml --run.resume auto"] * 3,
    )


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_signal_to_the_script_is_for_good(tmp_path, signal):
    body = f"trap 'sleep 0.3; exit 75' TERM; kill -{signal} $PPID; sleep 30 & wait"
    code, started = stand_in(tmp_path / "bin", body)
    assert (code, len(started)) == (75, 1)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_torchrun_trains_to_the_end(inputs, processes):
    code, said = launched(inputs, "torchrun.sh", processes, "-c", run_file(inputs, "torchrun"))
    assert code == 0, said
    assert read_manifest(inputs / "runs/torchrun/checkpoints/last.ckpt").step == 18
