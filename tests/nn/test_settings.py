import pytest

from features.errors import RunConfigError
from recsys.nn.settings import SettingsCheck


def test_good_settings_pass():
    check = SettingsCheck("Model").at_least("num_blocks", 1, 1).at_least("rank", None, 1)
    check.dropout("dropout", 0.0).widths("mlp", ()).one_of("kind", "a", ["a", "b"]).done()


def test_mistakes_are_raised_together():
    check = SettingsCheck("Model").at_least("num_blocks", 0, 1).widths("mlp", (), min_layers=1)
    with pytest.raises(RunConfigError) as caught:
        check.holds(False, "a: b").done()
    assert caught.value.mistakes == (
        "Model: num_blocks: is too small, got 0; allowed 1 or more",
        "Model: mlp: needs a width of 1 or more per layer and 1 or more layers, got []; "
        "write for example [400, 400]",
        "Model: a: b",
    )
