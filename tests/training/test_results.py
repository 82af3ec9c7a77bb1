from types import SimpleNamespace

from recsys.training.callbacks import Results


def test_a_resumed_run_goes_on_counting_seconds(tmp_path):
    results = Results(tmp_path)
    results.load_state_dict({"train_s": 100.0})
    results.on_train_start(SimpleNamespace(), SimpleNamespace())
    assert 100 <= results.state_dict()["train_s"] < 130
