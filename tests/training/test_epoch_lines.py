"""The lines of a log: one for each epoch that was trained."""

import re
from types import SimpleNamespace

from recsys.training.callbacks import EpochLines


def test_an_epoch_that_resuming_ends_again_has_no_line(capsys):
    lines = EpochLines()
    trainer = SimpleNamespace(
        current_epoch=3, global_step=208, max_epochs=6, is_global_zero=True, callback_metrics={}
    )
    lines.on_train_start(trainer, None)
    lines.on_train_epoch_end(trainer, None)
    assert not capsys.readouterr().out
    lines._started_s -= 40
    for epoch in (4, 5):
        trainer.current_epoch, trainer.global_step = epoch, trainer.global_step + 52
        lines.on_train_epoch_end(trainer, None)
    first, last = capsys.readouterr().out.splitlines()
    # One epoch took 40 seconds, and one is left.
    assert re.match(r"epoch 4  40 s  .*  40 s left at most", first)
    assert last.startswith("epoch 5")
    assert "left" not in last
