"""A compiled model trains as the same model does uncompiled."""

import os
from types import SimpleNamespace

import pytest
import torch
from gloo import run_processes
from training.runs import Losses, data_module, fit_task, saved_tensors, task, write_inputs

from features.errors import RunConfigError
from recsys.training import compiler
from recsys.training.compiler import check_compiler

LAST = 6


def train(rank, world_size, directory, kind):
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    found = []
    for compiles in (False, True):
        built, losses = task(kind), Losses()
        built.compiles = compiles
        data, name = data_module(directory, kind), f"{compiles}"
        fit_task(directory, built, data, name, callbacks=[losses], max_steps=LAST)
        found.append(losses.values)
    return found


@pytest.mark.slow
def test_a_compiled_model_trains_as_it_does_uncompiled(tmp_path):
    directory = write_inputs(tmp_path)
    eager, compiled = run_processes(1, train, tmp_path, directory, "ranking")
    assert len(eager) == LAST
    assert compiled == pytest.approx(eager, abs=1e-5)
    expected, found = saved_tensors(directory, "False"), saved_tensors(directory, "True")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-3, rtol=0, msg=name)


def test_the_ranker_is_compiled_for_batches_of_any_size(monkeypatch):
    compiled = []
    built = task("ranking")
    built.ranker = torch.nn.Linear(1, 1)
    monkeypatch.setattr(built, "check_settings", lambda trainer: None)
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, dynamic: compiled.append((module, dynamic))
    )
    built._trainer = SimpleNamespace()
    built.on_fit_start()
    assert compiled == []
    built.compiles = True
    built.on_fit_start()
    assert compiled == [(built.ranker, True)]


def test_what_compiling_needs_is_asked_for_before_training(monkeypatch):
    check_compiler("cpu")
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    with pytest.raises(RunConfigError, match=r"compile: needs a C\+\+ compiler \(g\+\+; apt"):
        check_compiler("cpu")
    with pytest.raises(RunConfigError, match=r"and triton \(it comes with torch for CUDA\)"):
        check_compiler("cuda")
