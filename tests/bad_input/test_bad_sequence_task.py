"""Settings of a sequence task that cannot be: exit code 2, a message, and no output."""

import pytest
from spoiling import edit, fit

ENCODER, LOSS = "model.init_args.encoder", "model.init_args.loss"
PLAIN = "{name: item_id, kind: categorical}"
SHARDED = {"model.init_args.tables": {"dense_max_bytes": 0}}


@pytest.fixture
def place(place):
    model = {"class_path": "SequenceTask", "init_args": {"encoder": {"class_path": "SASRec"}}}
    edit(place, **{"model": model, "data.features": str(place / "sequence.yaml")})
    return place


SETTINGS = {
    "softmax over a sharded table": (
        SHARDED,
        r"tables.item_id: a softmax over the whole catalogue needs a replicated table, got a "
        r"sharded one of \d+ bytes; set model.loss to SampledSoftmax, or tables.dense_max_bytes",
    ),
    "softmax over a sharded output": (
        {**SHARDED, "model.init_args.item_output": "separate"},
        r"tables.item_id_output: a softmax over the whole catalogue needs a replicated table",
    ),
    "ties without times": (
        {"model.init_args.shuffle_ties": True},
        r"features.history: ties can be shuffled only where times are known, got no `times`; add",
    ),
    "gaps without times": (
        {ENCODER: {"class_path": "SASRec", "init_args": {"time_gaps": True}}},
        r"SASRec: time_gaps: needs the times of events, got none; add `times: COLUMN`",
    ),
    "item output": (
        {"model.init_args.item_output": "tie"},
        r"item_output: does not fit, got 'tie'; allowed tied, separate",
    ),
    "no negative": (
        {LOSS: {"class_path": "SampledSoftmax", "init_args": {"num_negatives": 0}}},
        r"SampledSoftmax.num_negatives: is too small, got 0; allowed 1 or more",
    ),
    "calibration": (
        {LOSS: {"class_path": "GeneralizedBCE", "init_args": {"calibration": 2.0}}},
        r"GeneralizedBCE.calibration: is no share, got 2.0; allowed 0 to 1",
    ),
    "misspelt loss": (
        {LOSS: {"class_path": "SampledSoftmx"}},
        r"loss.class_path: unknown class, got 'SampledSoftmx'; allowed .*mean 'SampledSoftmax'",
    ),
    "loss that is none": (
        {LOSS: {"class_path": "SASRec"}},
        r"loss.class_path: unknown class, got 'SASRec'; allowed .*FullSoftmax",
    ),
    "misspelt setting of a loss": (
        {LOSS: {"class_path": "SampledSoftmax", "init_args": {"num_negative": 5}}},
        r"loss.init_args.num_negative: unknown key.*did you mean 'num_negatives'",
    ),
    "kind of draw": (
        {LOSS: {"class_path": "BinaryCrossEntropy", "init_args": {"negatives_per": "batches"}}},
        r"negatives_per: does not fit, got 'batches'; allowed sequence, position, batch",
    ),
    "encoder's length": (
        {ENCODER: {"class_path": "HSTU", "init_args": {"max_length": 0}}},
        r"HSTU: max_length: .* got 0",
    ),
    "mask share": ({"model.init_args.mask_share": 1.5}, r"mask_share: is no share, got 1.5"),
    "window step": (
        {"data.window_step": 11},
        r"data.window_step: leaves events out .* got 11; allowed 1 to 10, the max_length",
    ),
}


@pytest.mark.parametrize(("changes", "says"), SETTINGS.values(), ids=SETTINGS)
def test_setting(place, refused, changes, says):
    edit(place, **changes)
    refused(fit, place, says=says)


FEATURES = {
    "one more feature": (
        (PLAIN, PLAIN + "\n  - {name: device, kind: categorical}"),
        r"reads the columns of 'history' alone, got also device; name them in its `of`, or drop",
    ),
    "a dense feature": (
        (PLAIN, PLAIN + "\n  - {name: price, kind: dense}"),
        r"reads the columns of 'history' alone, got also dense features;",
    ),
    "another sequence": (
        (PLAIN, PLAIN + "\n  - {name: device, kind: categorical}\n"
         "  - {name: devices, kind: sequence, of: device, max_length: 2}"),
        r"reads the columns of 'history' alone, got also device, devices.device;",
    ),
    "a pooled sequence": (
        ("max_length: 10", "max_length: 10, pooling: mean"),
        r"features.history.pooling: a sequence task reads every event, got mean; allowed none",
    ),
    "a random split": (
        ("leave_one_out", "random"),
        r"split: .*set split: \{kind: leave_one_out\}",
    ),
    "times that are none": (
        ("max_length: 10", "max_length: 10, times: device"),
        r"features.history.times \(expr 'device'\): must be seconds since 1970, a date or a "
        r"datetime, got type String; convert it",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FEATURES.values(), ids=FEATURES)
def test_features(place, refused, change, says):
    file = place / "sequence.yaml"
    text = file.read_text()
    assert text.count(change[0]) == 1
    file.write_text(text.replace(*change))
    refused(fit, place, says=says)


def test_the_output_table_takes_no_name_that_is_taken(place, refused):
    file = place / "sequence.yaml"
    more = PLAIN + "\n  - {name: item_id_output, column: device, kind: categorical}"
    text = file.read_text().replace(PLAIN, more)
    file.write_text(text.replace("of: item_id", "of: [item_id, item_id_output]"))
    edit(place, **{"model.init_args.item_output": "separate"})
    refused(fit, place, says=r"tables.item_id_output: is the name of the table that items are")
