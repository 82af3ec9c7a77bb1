"""A part from raw events to scores: rows of the log, or users where the bundle ranks items."""

from __future__ import annotations

import numpy as np
import polars as pl

from features import columns
from features.spec import Sequence
from recsys.data.collate import RankingCollate
from recsys.data.rows import Rows
from recsys.nearest.exact import Best, Candidates, best_items
from recsys.scoring.counts import Counts, count_features, count_scores
from recsys.scoring.histories import LogHistories, histories_path, reads_histories
from recsys.scoring.job import Job
from recsys.scoring.output import OutputFolder, ScoredPart
from recsys.scoring.plan import Settings
from recsys.scoring.reading import EventReader, Events
from recsys.scoring.scorer import Scorer
from recsys.scoring.threads import mapped, one_thread_each
from recsys.scoring.users import Users, as_rows, best_of_each

# Constant, as the last bits of scores follow the shapes of batches.
_EVENT_BATCH = 8192


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
        keys = self._reader.raw(events.frame, self._settings.key_columns)
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
            found = list(mapped(probabilities, starts, num_threads=self._num_threads))
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
        self._items = Candidates.of(scorer.item_vectors_VD)
        self._num_users = len(self._store.histories or ())

    def score(self, part: int) -> ScoredPart:
        """Score the users of a part."""
        size = self._settings.users_per_part
        first, stop = part * size, min((part + 1) * size, self._num_users)
        users = np.arange(first, stop)
        best = best_of_each(
            self._scorer,
            self._store,
            users,
            search=self._search,
            num_threads=self._num_threads,
        )
        frame = as_rows(best, users, scorer=self._scorer, store=self._store)
        counts = Counts(scored=stop - first, written=len(frame))
        return ScoredPart(frame, pl.DataFrame(), counts)

    def _search(self, users: Users) -> Best:
        return best_items(
            users.vectors_BD,
            self._items,
            k=self._settings.places,
            seen=users.seen,
        )


def open_parts(
    job: Job, reader: EventReader, output: OutputFolder, *, num_threads: int
) -> EventParts | UserParts:
    """What scores single parts; the histories must have been built.

    Args:
        job: What to score.
        reader: Of the log.
        output: Has the histories.
        num_threads: Batches that are scored at once.
    """
    scorer = Scorer(job.bundle, precision=job.settings.precision)
    histories = None
    if reads_histories(reader.schema.feature_set):
        histories = LogHistories(histories_path(output.work, rejects=job.rejects))
    if scorer.manifest.task == "sequence":
        assert histories is not None, "a sequence bundle has a sequence"
        return UserParts(
            scorer, histories=histories, settings=job.settings, num_threads=num_threads
        )
    return EventParts(
        scorer,
        reader,
        histories=histories,
        settings=job.settings,
        reject=job.rejects,
        num_threads=num_threads,
    )
