"""A part from raw events to scores: rows of the log, or users where the bundle ranks items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import polars as pl
import torch

from features import columns
from features.spec import Sequence
from recsys.data.collate import RankingCollate
from recsys.data.rows import Rows
from recsys.data.scoring import user_batches
from recsys.metrics import remove_seen, top_k
from recsys.scoring.counts import Counts, count_features, count_scores
from recsys.scoring.histories import LogHistories
from recsys.scoring.plan import Settings
from recsys.scoring.reading import EventReader, Events
from recsys.scoring.scorer import Scorer
from recsys.types import Batch

# Constant, as the last bits of scores follow the shapes of batches.
_EVENT_BATCH, _USER_BATCH = 8192, 256
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class ScoredPart:
    """A part, ready to be written.

    Attributes:
        frame: Keys and scores.
        rejects: Events that could not be scored.
        counts: Of all its rows.
    """

    frame: pl.DataFrame
    rejects: pl.DataFrame
    counts: Counts


class EventParts:
    """Parts of a ranking bundle: rows of the log, in its order.

    Args:
        scorer: The bundle.
        reader: Of the log.
        histories: Of the log, where the bundle reads them.
        settings: Names the key columns.
        reject: Whether rows that cannot be scored are rejected, or an error.
        num_threads: Batches that are scored at once; results do not depend on it.
    """

    def __init__(
        self,
        scorer: Scorer,
        reader: EventReader,
        *,
        histories: LogHistories | None,
        settings: Settings,
        reject: bool,
        num_threads: int,
    ) -> None:
        self._scorer, self._reader, self._histories = scorer, reader, histories
        self._settings, self._reject, self._num_threads = settings, reject, num_threads
        sequences = reader.schema.feature_set.of_kind(Sequence)
        self._collate = RankingCollate(
            reader.schema,
            histories={s.name: histories.store.histories_of(s) for s in sequences}
            if histories
            else {},
            with_labels=False,
        )
        self.count = reader.num_parts

    def score(self, part: int) -> ScoredPart:
        """Read and score a part.

        Raises:
            DataError: it is not what the bundle expects.
        """
        raw = self._reader.read(part)
        events, rejects = self._reader.checked(raw, reject=self._reject)
        encoded = self._reader.encode(events)
        scores_ET = self._scores(events, encoded)
        labels = self._scorer.manifest.labels
        keys = events.frame.select(self._settings.key_columns).get_columns()
        scores = [pl.Series(f"score_{n}", scores_ET[:, t]) for t, n in enumerate(labels)]
        frame = pl.DataFrame([*keys, *scores])
        counts = Counts(
            read=raw.num_read,
            left_out=raw.num_read - len(raw.frame),
            rejected=len(rejects),
            scored=len(frame),
            written=len(frame),
            features=count_features(self._reader.schema, events.frame, encoded),
            scores={n: count_scores(scores_ET[:, t]) for t, n in enumerate(labels)},
        )
        assert counts.read == counts.left_out + counts.rejected + counts.scored, "no row is lost"
        return ScoredPart(frame, rejects, counts)

    def _scores(self, events: Events, encoded: pl.DataFrame) -> np.ndarray:
        if self._histories is not None:
            encoded = encoded.with_columns(self._histories.places(events.frame[columns.ROW]))
        elif self._reader.schema.feature_set.entity.user is not None:
            # Whose an event is matters to histories alone.
            encoded = encoded.with_columns(pl.lit(0, dtype=pl.UInt32).alias(columns.USER))
        rows = Rows.from_arrow(encoded.select(self._collate.columns).to_arrow())
        starts = range(0, len(rows), _EVENT_BATCH)

        def probabilities(start: int) -> np.ndarray:
            batch = rows.slice(start, min(start + _EVENT_BATCH, len(rows)))
            return self._scorer.probabilities(self._collate(batch)).numpy()

        with one_thread_each():
            found = list(_mapped(probabilities, starts, num_threads=self._num_threads))
        empty = np.zeros((0, len(self._scorer.manifest.labels)), np.float32)
        return np.concatenate([empty, *found])


class UserParts:
    """Parts of a sequence bundle: users, each with the best items.

    Args:
        scorer: The bundle.
        histories: Of the log.
        settings: How many items and users.
        num_threads: Batches that are scored at once; results do not depend on it.
    """

    def __init__(
        self, scorer: Scorer, *, histories: LogHistories, settings: Settings, num_threads: int
    ) -> None:
        self._scorer, self._store, self._settings = scorer, histories.store, settings
        self._num_threads = num_threads
        self._users = pl.read_parquet(self._store.users_file)["user"]
        self.count = -(-len(self._users) // settings.users_per_part)

    def score(self, part: int) -> ScoredPart:
        """Score the users of a part."""
        size = self._settings.users_per_part
        first, stop = part * size, min((part + 1) * size, len(self._users))
        batches = user_batches(self._store, batch_size=_USER_BATCH, first=first, stop=stop)
        with one_thread_each():
            found = _mapped(self._best_items, batches, num_threads=self._num_threads)
            best = pl.concat(list(found))
        feature_set = self._scorer.schema.feature_set
        user, item = feature_set.entity.user, feature_set.entity.item
        assert user is not None, "a sequence bundle has users"
        assert item is not None, "a sequence bundle has items"
        frame = best.select(
            self._users.gather(best["user"]).alias(user),
            self._scorer.schema.decode(item, best["item"]).alias(item),
            "score",
            "rank",
        )
        counts = Counts(scored=stop - first, written=len(frame))
        return ScoredPart(frame, pl.DataFrame(), counts)

    def _best_items(self, batch: Batch) -> pl.DataFrame:
        scores_BV = remove_seen(
            self._scorer.catalogue_scores(batch),
            batch.targets_B,
            batch.seen_values,
            batch.seen_lengths_B,
        )
        places = min(self._settings.places, scores_BV.shape[1] - 1)
        items_BK = top_k(scores_BV, places)
        frame = pl.DataFrame(
            {
                "user": batch.users_B.repeat_interleave(places).numpy(),
                "item": items_BK.flatten().numpy(),
                "score": scores_BV.gather(1, items_BK).flatten().numpy(),
                "rank": torch.arange(1, places + 1).repeat(len(batch)).numpy(),
            }
        )
        return frame.filter(pl.col("item") > 0)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within, an operation of torch runs on one thread, so that bits do not follow their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mapped(
    function: Callable[[_Item], _Found], items: Iterable[_Item], *, num_threads: int
) -> Iterator[_Found]:
    """The function of each item, in order, some at once."""
    if num_threads == 1:
        yield from map(function, items)
        return
    iterator = iter(items)
    with ThreadPoolExecutor(num_threads) as executor:
        while some := list(islice(iterator, 4 * num_threads)):
            yield from executor.map(function, some)
