"""A hand-made batch with wrong ids is refused by the scorer of a bundle, by feature."""

from dataclasses import replace

import pytest
from tables.test_batch_checks import changed

from features.errors import DataError, SchemaMismatchError
from recsys.data.scoring import encode_for_scoring, event_batches, user_batches
from recsys.scoring.scorer import Scorer


def first_batch(bundles, kind, path):
    scorer = Scorer(bundles.of(kind))
    store = encode_for_scoring(scorer.schema, bundles.data, path / "store")
    made = user_batches if kind == "sequence" else event_batches
    return scorer, next(iter(made(store, batch_size=16)))


@pytest.mark.parametrize(
    ("kind", "part", "key"),
    [
        ("plain", "ids", "user_id"),
        ("plain", "ids", "tags"),
        ("histories", "sequences", "history.item_id"),
        ("histories", "sequences", "mobile.tags"),
        ("sequence", "sequences", "history.item_id"),
    ],
)
def test_wrong_ids_and_lengths_are_named(bundles, tmp_path, kind, part, key):
    scorer, batch = first_batch(bundles, kind, tmp_path)
    score = scorer.user_vectors if kind == "sequence" else scorer.probabilities
    assert len(score(batch)) == 16
    keyed = getattr(batch, part)
    ids, lengths = keyed[key].values().clone(), keyed[key].lengths().clone()
    ids[-1] = 10**7
    wrong = replace(batch, **{part: changed(keyed, key, values=ids)})
    with pytest.raises(SchemaMismatchError, match=rf"features.{key}: .* got 10000000 in example "):
        score(wrong)
    lengths[2] = -1
    wrong = replace(batch, **{part: changed(keyed, key, lengths=lengths)})
    with pytest.raises(DataError, match=rf"features.{key}: negative .* got -1 in example 2 "):
        score(wrong)
