"""What an earlier click tells of the label, counted from any log.

For target category t, category b of an earlier click and distance d, over the examples of t, let X
say whether the click d places before is of b, and let Y be the label:

    MI(t, b, d) = sum_{x, y} p(x, y) log2(p(x, y) / (p(x) p(y)))

It is large for clicks that make the label likelier and for those that make it less likely, so it is
a truth for searches, not for predictions. Distances may be counted together in buckets: the pairs
of an example and a distance in the bucket are then the samples.

Source: Feng et al., DARE (2025), https://arxiv.org/abs/2410.02604, section 4.3 and its code.
Differs from the paper: a cell with too few counts is left out; there it stays, and a search with
more than 20 of them is left out, as `search_ndcg` does too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from features.errors import RunConfigError
from recsys.metrics.relevance import Lookup
from recsys.metrics.searches import Floats, Ints, Searches

_COUNT_BYTES = np.dtype(np.int64).itemsize
_LABELS = 2


@dataclass(frozen=True)
class MutualInformation:
    """Mutual information by cell, of the cells with counts enough.

    Attributes:
        cells: With target, clicked, bucket, negatives and positives (the samples with X = 1 by
            label) and mutual_information in bits; sorted by the first three.
        edges: Bucket i holds distances edges[i] ... edges[i + 1] - 1.
        num_categories: Numbers of categories are below.
    """

    cells: pl.DataFrame
    edges: tuple[int, ...]
    num_categories: int

    def of(self, searches: Searches) -> Floats:
        """Mutual information of each click, (L,), as its relevance; NaN where it is not known."""
        target, clicked, bucket = (
            self.cells[name].to_numpy() for name in ("target", "clicked", "bucket")
        )
        num_buckets = len(self.edges) - 1
        pairs = target * self.num_categories + clicked
        values = self.cells["mutual_information"].to_numpy()
        known = Lookup(pairs * num_buckets + bucket, values)
        bucket_L = _buckets(searches, self.edges)
        keys_L = _pairs(searches, self.num_categories) * num_buckets + bucket_L
        return known(np.where(bucket_L >= 0, keys_L, -1), missing=np.nan)


def mutual_information(
    read: Callable[[], Iterable[Searches]],
    *,
    num_categories: int,
    edges: Sequence[int],
    min_examples: int = 700,
    min_count: int = 50,
    max_bytes: int = 1 << 29,
) -> MutualInformation:
    """Count a log and compute the mutual information of every cell that has counts enough.

    The log is read several times: for the targets that have examples enough, for the pairs that
    have counts enough over all distances, and for the cells of these pairs; the latter two again
    for every `max_bytes` of counts.

    Args:
        read: Gives the log from its beginning; examples without a label are not counted.
        num_categories: Numbers of categories are below.
        edges: Of the buckets, rising from 1 or more: bucket i holds distances edges[i] ...
            edges[i + 1] - 1. `range(1, 201 + 1)`: each of 200 distances by itself.
        min_examples: That a target needs.
        min_count: That a cell needs with X = 1, of each label.
        max_bytes: For counts.

    Raises:
        RunConfigError: the edges do not rise.
    """
    edges = tuple(edges)
    if len(edges) < 2 or edges[0] < 1 or any(low >= high for low, high in pairwise(edges)):
        raise RunConfigError(
            f"mutual_information.edges: must rise from 1 or more, got {list(edges)}"
        )
    counter = _Counter(read, num_categories, edges, max_bytes)
    totals = counter.targets()
    pairs = counter.pairs(np.flatnonzero(totals.sum(axis=1) >= min_examples), min_count=min_count)
    found = [pl.DataFrame(schema=_SCHEMA)]
    for part, counts in counter.cells(pairs):
        cell, bucket = np.nonzero((counts >= min_count).all(axis=2))
        x = counts[cell, bucket]
        samples = totals[part[cell] // num_categories] * np.diff(edges)[bucket, None]
        columns = {
            "target": part[cell] // num_categories,
            "clicked": part[cell] % num_categories,
            "bucket": bucket,
            "negatives": x[:, 0],
            "positives": x[:, 1],
            "mutual_information": information(np.stack([samples - x, x], axis=1)),
        }
        found.append(pl.DataFrame(columns, schema=_SCHEMA))
    return MutualInformation(pl.concat(found), edges, num_categories)


_SCHEMA = {
    **dict.fromkeys(("target", "clicked", "bucket", "negatives", "positives"), pl.Int64),
    "mutual_information": pl.Float64,
}


def information(counts: Ints) -> Floats:
    """Mutual information of two variables, in bits.

    Args:
        counts: (cells, values of the one, values of the other).
    """
    joint = counts / counts.sum(axis=(1, 2), keepdims=True)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=2, keepdims=True)
    ratio = np.divide(joint, apart, out=np.ones_like(joint), where=joint > 0)
    return (joint * np.log2(ratio)).sum(axis=(1, 2))


@dataclass(frozen=True)
class _Counter:
    """Counts by label, the last dimension: 0, 1."""

    read: Callable[[], Iterable[Searches]]
    num_categories: int
    edges: tuple[int, ...]
    max_bytes: int

    def targets(self) -> Ints:
        """Examples of each category, (num_categories, 2)."""

        def keys(searches: Searches) -> tuple[Ints, Floats]:
            return searches.targets_B, searches.labels_B

        return self._count(keys, size=self.num_categories)

    def pairs(self, targets: Ints, *, min_count: int) -> Ints:
        """The pairs of these targets that have counts enough, rising: target * C + clicked."""
        kept = [np.zeros(0, dtype=np.int64)]
        for part in self._parts(targets, row=self.num_categories):
            row_of = np.full(self.num_categories, -1)
            row_of[part] = np.arange(len(part))

            def keys(searches: Searches, row_of: Ints = row_of) -> tuple[Ints, Floats]:
                row_L = row_of[searches.targets_B][searches.rows_L]
                is_near_L = _buckets(searches, self.edges) >= 0
                keys_L = row_L * self.num_categories + searches.clicked_L
                wanted_L = is_near_L & (row_L >= 0)
                return np.where(wanted_L, keys_L, -1), searches.labels_B[searches.rows_L]

            counts = self._count(keys, size=len(part) * self.num_categories)
            enough = np.flatnonzero((counts >= min_count).all(axis=1))
            row, clicked = enough // self.num_categories, enough % self.num_categories
            kept.append(part[row] * self.num_categories + clicked)
        return np.concatenate(kept)

    def cells(self, pairs: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Some of the pairs at a time, with their counts, (pairs, buckets, 2)."""
        num_buckets = len(self.edges) - 1
        for part in self._parts(pairs, row=num_buckets):
            row_of = Lookup(part, np.arange(len(part), dtype=np.float64))

            def keys(searches: Searches, row_of: Lookup = row_of) -> tuple[Ints, Floats]:
                row_L = row_of(_pairs(searches, self.num_categories), missing=-1).astype(np.int64)
                bucket_L = _buckets(searches, self.edges)
                keys_L = row_L * num_buckets + bucket_L
                wanted_L = (row_L >= 0) & (bucket_L >= 0)
                return np.where(wanted_L, keys_L, -1), searches.labels_B[searches.rows_L]

            counts = self._count(keys, size=len(part) * num_buckets)
            yield part, counts.reshape(len(part), num_buckets, _LABELS)

    def _parts(self, rows: Ints, *, row: int) -> list[Ints]:
        """The rows in parts whose counts have room; each row has `row` counts of each label."""
        length = max(1, self.max_bytes // (row * _LABELS * _COUNT_BYTES))
        return [rows[start : start + length] for start in range(0, len(rows), length)]

    def _count(self, keys: Callable[[Searches], tuple[Ints, Floats]], *, size: int) -> Ints:
        """Count keys by label, (size, 2); those below 0 or without label are left out."""
        counts = np.zeros(size * _LABELS, dtype=np.int64)
        for searches in self.read():
            key, label = keys(searches)
            frame = pl.DataFrame({"key": key, "label": label}, nan_to_null=True)
            frame = frame.filter(pl.col("key") >= 0, pl.col("label").is_not_null())
            place = pl.col("key").cast(pl.Int64) * _LABELS + pl.col("label").cast(pl.Int64)
            grouped = frame.group_by(place.alias("place")).len()
            counts[grouped["place"].to_numpy()] += grouped["len"].to_numpy()
        return counts.reshape(size, _LABELS)


def _pairs(searches: Searches, num_categories: int) -> Ints:
    return searches.targets_B[searches.rows_L] * num_categories + searches.clicked_L


def _buckets(searches: Searches, edges: Sequence[int]) -> Ints:
    """Bucket of each click; -1 outside of all."""
    bucket_L = np.searchsorted(edges, searches.distances_L, side="right") - 1
    return np.where(bucket_L < len(edges) - 1, bucket_L, -1)
