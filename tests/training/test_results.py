import logging
from types import SimpleNamespace

import torch

from recsys.training.callbacks import Patience, Results


def test_a_resumed_run_goes_on_counting_seconds(tmp_path):
    results = Results(tmp_path)
    results.load_state_dict({"train_s": 100.0})
    results.on_train_start(SimpleNamespace(), SimpleNamespace())
    assert 100 <= results.state_dict()["train_s"] < 130


def test_a_result_that_is_undefined_ends_no_training_and_is_told_once(caplog):
    patience = Patience(monitor="val/auc/click", mode="max", patience=2)
    trainer = SimpleNamespace(
        callback_metrics={"val/auc/click": torch.tensor(torch.nan)},
        is_global_zero=True,
        should_stop=False,
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            patience.on_validation_end(trainer, SimpleNamespace())
    assert not trainer.should_stop
    assert patience.wait_count == 0
    assert [r.getMessage().partition(",")[0] for r in caplog.records] == [
        "val/auc/click: is undefined"
    ]
