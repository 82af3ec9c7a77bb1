"""`run.resume: auto` finds the newest whole checkpoint, whatever has befallen the others."""

import json
import shutil
from functools import partial

import pytest
import torch
from gloo import run_processes
from migration.made import schema
from training.runs import Losses, data_module, fit_task, task, write_inputs

from features.errors import CheckpointMismatchError, RunConfigError
from recsys.checkpoint import MODEL, Manifest, read_tensors, recovered, write_checkpoint
from recsys.checkpoint_sums import SUMS, check_sums
from recsys.training.callbacks import BestCheckpoint
from recsys.training.resuming import newest_whole, resumed_checkpoint

SCHEMA = schema("features: [{name: color, kind: categorical}]")


def write(run, name, step):
    path = run / "checkpoints" / name
    write_checkpoint(
        path,
        tensors={f"{MODEL}weights": torch.full((50,), float(step))},
        trainer={"step": step},
        manifest=Manifest(step, 0, step, SCHEMA.fingerprint()),
        schema=SCHEMA,
    )
    return path


def flip(file):
    """Change one bit in the midst of a file, whose size stays."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_newest_of_several(tmp_path):
    assert newest_whole(tmp_path) is None
    best = write(tmp_path, "best.ckpt", 10)
    assert newest_whole(tmp_path) == best
    last = write(tmp_path, "last.ckpt", 12)
    assert newest_whole(tmp_path) == last
    assert {path.name for path in last.parent.iterdir()} == {"best.ckpt", "last.ckpt"}


FILES = ["__0_0.distcp", ".metadata", "trainer.pt", "manifest.json", "schema/schema.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_one_is_named_and_passed_over(tmp_path, caplog, name):
    caplog.set_level("INFO")
    best = write(tmp_path, "best.ckpt", 10)
    last = write(tmp_path, "last.ckpt", 12)
    check_sums(last)
    flip(last / name)
    assert newest_whole(tmp_path) == best
    assert f"passed over: {last / name}: is damaged, got " in caplog.text
    shutil.rmtree(best)
    assert resumed_checkpoint(tmp_path, ckpt_path=None) is None
    assert "no whole checkpoint, so training starts anew" in caplog.text


def test_all_damaged_files_are_told_at_once(tmp_path):
    last = write(tmp_path, "last.ckpt", 12)
    flip(last / "trainer.pt")
    (last / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointMismatchError) as raised:
        read_tensors(last, MODEL)
    assert sorted(mistake.partition(", ")[0] for mistake in raised.value.mistakes) == [
        f"{last / '__0_0.distcp'}: is missing; take another checkpoint",
        f"{last / 'trainer.pt'}: is damaged",
    ]


@pytest.mark.parametrize("suffix", [".partial", ".old"])
def test_one_that_was_cut_off_before_its_name_changed(tmp_path, suffix):
    last = tmp_path / "checkpoints/last.ckpt"
    if suffix == ".partial":
        write(tmp_path, "last.ckpt", 11).rename(last.with_name("last.ckpt.old"))
    cut_off = write(tmp_path, "last.ckpt", 12).rename(last.with_name(f"last.ckpt{suffix}"))
    assert newest_whole(tmp_path) == cut_off
    assert recovered(cut_off) == last
    assert read_tensors(last, MODEL)["weights"].unique().tolist() == [12]
    assert newest_whole(tmp_path) == last


@pytest.mark.parametrize("lacking", [SUMS, "trainer.pt"])
def test_one_that_was_cut_off_earlier_does_not_count(tmp_path, lacking):
    best = write(tmp_path, "best.ckpt", 10)
    last = write(tmp_path, "last.ckpt", 12)
    partial = last.rename(last.with_name("last.ckpt.partial"))
    (partial / lacking).unlink()
    assert newest_whole(tmp_path) == best


def test_checkpoints_of_before_there_were_hashes_count(tmp_path):
    last = write(tmp_path, "last.ckpt", 12)
    (last / SUMS).unlink()
    assert newest_whole(tmp_path) == last


def test_two_ways_to_resume(tmp_path):
    with pytest.raises(RunConfigError, match=r"run.resume: .*got auto and ckpt_path 'last'; drop"):
        resumed_checkpoint(tmp_path, ckpt_path="last")


def test_every_file_has_its_hash(tmp_path):
    last = write(tmp_path, "last.ckpt", 12)
    found = {str(f.relative_to(last)) for f in last.rglob("*") if f.is_file()}
    assert json.loads((last / SUMS).read_text()).keys() == found - {SUMS}


@pytest.mark.parametrize("is_there", [True, False])
def test_the_best_score_moves_with_the_folder(tmp_path, is_there):
    """Else the first validation after a move would replace a better checkpoint."""
    before, after = tmp_path / "runs" / "a", tmp_path / "elsewhere" / "b"
    saved = BestCheckpoint(dirpath=before, filename="best", monitor="auc", mode="max").state_dict()
    best, score = str(before / "best.ckpt"), torch.tensor(0.8)
    saved |= {"best_model_score": score, "best_model_path": best, "kth_best_model_path": best}
    saved |= {"kth_value": score, "best_k_models": {best: score}, "dirpath": str(before)}
    resumed = BestCheckpoint(dirpath=str(after), filename="best", monitor="auc", mode="max")
    if is_there:
        (after / "best.ckpt").mkdir(parents=True)
        resumed.load_state_dict(saved)
        assert resumed.best_model_score == score
        assert resumed.best_k_models == {str(after / "best.ckpt"): score}
        assert resumed.kth_best_model_path == resumed.best_model_path == str(after / "best.ckpt")
    else:  # the run that began elsewhere has none here: its own first one is the best
        with pytest.warns(UserWarning, match="The dirpath has changed"):
            resumed.load_state_dict(saved)
        assert resumed.best_model_score is None


def test_what_is_left_of_an_earlier_change_of_names_is_cleared_away(tmp_path):
    last = write(tmp_path, "last.ckpt", 11)
    shutil.copytree(last, last.with_name("last.ckpt.old"))
    write(tmp_path, "last.ckpt", 12)
    assert read_tensors(last, MODEL)["weights"].unique().tolist() == [12]
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


class FallingSGD(torch.optim.SGD):
    """Its rate falls with a number beside each parameter that is no tensor."""

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                taken = self.state[parameter].get("taken", 0) + 1
                self.state[parameter]["taken"] = taken
                if parameter.grad is not None:
                    parameter -= group["lr"] / taken * parameter.grad
        return loss


def falling_runs(rank, world_size, directory):
    found = {}
    for name, steps, resume in (("whole", 6, None), ("half", 3, None), ("rest", 6, "half")):
        made, losses = task("ranking"), Losses()
        made.optimizer_factory = partial(FallingSGD, lr=0.5)
        data = data_module(directory, "ranking")
        fit_task(directory, made, data, name, max_steps=steps, resume=resume, callbacks=[losses])
        found[name] = losses.values
    return found


def test_optimisers_go_on_with_numbers_that_are_no_tensors(tmp_path):
    directory = write_inputs(tmp_path)
    losses = run_processes(1, falling_runs, directory, directory)
    assert losses["half"] + losses["rest"] == pytest.approx(losses["whole"], abs=1e-6)
