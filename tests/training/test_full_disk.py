"""A disk that fills up while a checkpoint is written: a clean end, the one before it is kept."""

import errno
import resource

import pytest
import torch
from commands import experiment, train_command
from gloo import run_processes
from training.runs import write_inputs
from training.test_resuming import SCHEMA

from features.errors import OutputError
from recsys.checkpoint import MODEL, Manifest, read_manifest, write_checkpoint
from recsys.checkpoint_sums import check_sums
from recsys.training.resuming import newest_whole

RANKING = {
    "class_path": "RankingTask",
    "init_args": {
        "ranker": {"class_path": "DCNv2", "init_args": {"num_cross_layers": 1, "mlp": [8]}},
    },
}
FULL = OSError(errno.ENOSPC, "No space left on device")
STAGES = [
    "recsys.checkpoint.dcp.save",
    "recsys.checkpoint.write_part",
    "recsys.checkpoint.torch.save",
    "recsys.checkpoint.save_schema",
    "recsys.checkpoint.write_sums",
]


def write(run, step, *, size=50):
    write_checkpoint(
        run / "checkpoints/last.ckpt",
        tensors={f"{MODEL}weights": torch.full((size,), float(step))},
        trainer={"step": step},
        manifest=Manifest(step, 0, step, SCHEMA.fingerprint()),
        schema=SCHEMA,
    )


def fail(*arguments, **options):
    raise FULL


def assert_kept(run, *, step):
    last = run / "checkpoints/last.ckpt"
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    check_sums(last)
    assert read_manifest(last).step == step
    assert newest_whole(run) == last


@pytest.mark.parametrize("stage", STAGES)
def test_the_one_before_is_kept_and_nothing_of_the_new_one(tmp_path, monkeypatch, stage):
    write(tmp_path, 3)
    monkeypatch.setattr(stage, fail)
    with pytest.raises(OutputError) as raised:
        write(tmp_path, 4)
    assert str(raised.value) == (
        f"{tmp_path}/checkpoints/last.ckpt: cannot be written, got [Errno 28] No space left on "
        f"device; the one of step 3 is kept; mend that, such as by making room on the disk, and "
        f"go on with --run.resume auto"
    )
    assert_kept(tmp_path, step=3)


def test_a_file_that_the_system_cuts_off(tmp_path):
    write(tmp_path, 3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            OutputError, match=r"last.ckpt: cannot be written, got .*File too large"
        ):
            write(tmp_path, 4, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_kept(tmp_path, step=3)


CASES = [(0, "recsys.checkpoint.torch.save"), (1, "recsys.checkpoint.write_part")]


def fail_in_turn(rank, world_size, directory):
    """What the first rank meets where one of them fails."""
    said = []
    for failing, stage in CASES:
        run = directory / f"run-{failing}"
        write(run, 3)
        with pytest.MonkeyPatch.context() as patch:
            if rank == failing:
                patch.setattr(stage, fail)
            try:
                write(run, 4)
            except OutputError as error:
                said.append(str(error))
    return said


def test_all_ranks_end_where_one_fails(tmp_path):
    said = run_processes(2, fail_in_turn, tmp_path, tmp_path)
    assert len(said) == len(CASES)
    for (failing, _), message in zip(CASES, said, strict=True):
        assert "got [Errno 28] No space left on device; the one of step 3 is kept" in message
        assert_kept(tmp_path / f"run-{failing}", step=3)


def test_the_command_ends_with_a_message(tmp_path, monkeypatch, capsys):
    write_inputs(tmp_path)
    file = experiment(tmp_path, RANKING, features="ranking.yaml")
    monkeypatch.setattr("recsys.checkpoint.write_sums", fail)
    assert train_command("fit", "-c", file) == 2
    said = capsys.readouterr().err
    assert (
        "best.ckpt: cannot be written, got [Errno 28] No space left on device; there was " in said
    )
    assert "Traceback" not in said
    assert not list((tmp_path / "runs/run/checkpoints").iterdir())
