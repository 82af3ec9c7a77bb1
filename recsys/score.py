"""Raw Parquet in, scored Parquet out: `python -m recsys score BUNDLE DATA --out DIR`."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from features import columns
from features.errors import DataError, RecsysError, RunConfigError, did_you_mean
from features.schema import FeatureSchema
from features.sources import scan_events
from recsys.bundle import MODEL, SEARCH, TABLES, BundleManifest, read_bundle
from recsys.data.scoring import encode_for_scoring, event_batches, event_rows, user_batches
from recsys.data.sequences import ItemSequence
from recsys.data.store import EncodedStore
from recsys.metrics import remove_seen, top_k
from recsys.nn.cutting import to_own_histories
from recsys.nn.events import Events
from recsys.nn.history_columns import HistoryColumns
from recsys.nn.tokens import Tokens, is_last
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.layout import field_layout
from recsys.tables.logical import OUTPUT, logical_tables, with_output
from recsys.tables.packing import unpack_into
from recsys.two_stages import embed_kept
from recsys.types import Batch, Embedded

_RANKING_BATCH, _SEQUENCE_BATCH = 8192, 256


class Scorer:
    """A loaded bundle.

    Args:
        bundle: Its directory.

    Attributes:
        manifest: What it holds.
        schema: What it encodes raw data with.

    Raises:
        SchemaMismatchError: it is no whole bundle.
    """

    def __init__(self, bundle: Path) -> None:
        self.manifest, self.schema = read_bundle(bundle)
        config = replace(TablesConfig(), dense_max_bytes=sys.maxsize)
        tables = logical_tables(self.schema)
        if self.manifest.task == "sequence":
            self._items = ItemSequence.of(self.schema.feature_set)
            if self.manifest.item_output == "separate":
                tables = with_output(tables, of=self._items.keys[0])
        self._embedder = Embedder(tables, config=config, is_served=True).eval()
        unpack_into(self._embedder, load_file(bundle / TABLES))
        self._program: nn.Module = torch.export.load(bundle / MODEL).module()
        self._search = None
        if (bundle / SEARCH).is_file():
            self._search = ExportedSearch(
                torch.export.load(bundle / SEARCH).module(),
                HistoryColumns.of(field_layout(self.schema, self._embedder), where=str(bundle)),
            )

    @torch.inference_mode()
    def probabilities(self, batch: Batch) -> Tensor:
        """Probabilities (B, T) of a ranking bundle's labels."""
        batch = to_own_histories(batch)  # an exported program knows no others
        search = self._search
        if search is None:
            embedded = self._embedder(batch)
        else:
            embedded = embed_kept(self._embedder, batch, columns=search.columns, search=search)
        histories = embedded.sequences.values()
        return self._program(
            list(embedded.fields.values()),
            [one_event_at_least(x.values_LD) for x in histories],
            # Of each its own: a tensor passed twice counts as one input.
            [x.lengths_B.clone() for x in histories],
            embedded.dense_BN,
            [one_event_at_least(age_L) for age_L in embedded.ages.values()],
        )

    @torch.inference_mode()
    def catalogue_scores(self, batch: Batch) -> Tensor:
        """Scores (B, V) of a sequence bundle's items."""
        assert batch.sequences is not None, "a sequence bundle"
        items = self._items
        tokens = Tokens.of(batch.sequences, keys=items.keys, time_key=items.time_key).as_question(
            self.manifest.objective or "next", max_length=self.manifest.max_length or 0
        )
        history = tokens.history(self._embedder.sequences(tokens.keyed()))
        sides = [history.sides[key] for key in items.keys[1:]]
        times = [t for t in (history.times_L, history.asked_at_L) if t is not None]
        num_items = self.schema.num_ids(items.item)
        assert num_items is not None, "an item catalogue is bounded"
        catalogue_VD = self._embedder.catalogue(
            items.keys[0] if self.manifest.item_output == "tied" else OUTPUT, num_ids=num_items
        )
        lengths_B, is_last_L = tokens.lengths_B, is_last(tokens.lengths_B)
        return self._program(history.items_LD, sides, times, lengths_B, is_last_L, catalogue_VD)


@dataclass(frozen=True)
class ExportedSearch:
    """Finds the events of histories that a ranking program reads.

    Attributes:
        program: Of the bundle.
        columns: What it reads.
    """

    program: nn.Module
    columns: HistoryColumns

    def __call__(self, embedded: Embedded) -> Events:
        """The events to keep, best first."""
        histories = [embedded.sequences[key] for key in self.columns.events("attention")]
        targets = [embedded.fields[key] for key in self.columns.targets("attention")]
        events = [one_event_at_least(x.values_LD) for x in histories]
        return Events(*self.program(targets, events, histories[0].lengths_B))


def one_event_at_least(packed: Tensor) -> Tensor:
    """What belongs to events; for none an event that no example owns, as a program must have."""
    return packed if len(packed) else packed.new_zeros(1, *packed.shape[1:])


def score(
    bundle: Path, data_dir: Path, out: Path, *, key_columns: Sequence[str] = (), k: int = 10
) -> int:
    """Score a directory of raw Parquet; the output appears under its name only when complete.

    Args:
        bundle: An exported model.
        data_dir: Raw files, named and laid out as those of training; labels may be missing.
        out: Directory to make.
        key_columns: Raw columns to repeat beside the scores (ranking bundles).
        k: Items per user (sequence bundles).

    Returns:
        Number of rows written.

    Raises:
        DataError: the data is not what the bundle expects.
        RunConfigError: the output exists already, or an argument is wrong.
        SchemaMismatchError: the bundle is not whole.
    """
    if k < 1:
        raise RunConfigError(f"-k: is no number of items, got {k}; allowed 1 and more")
    if out.exists():
        raise RunConfigError(f"--out: exists already, got {out}; give another name, or remove it")
    scorer = Scorer(bundle)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _check_keys(scorer.schema, data_dir, key_columns, manifest=scorer.manifest)
        store = encode_for_scoring(scorer.schema, data_dir, partial / "encoded")
        if scorer.manifest.task == "ranking":
            scored = _scored_events(scorer, store, data_dir, key_columns=key_columns)
        else:
            scored = _scored_users(scorer, store, k=k)
        scored.write_parquet(partial / "part-00000.parquet")
        shutil.rmtree(partial / "encoded")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(scored)


def _scored_events(
    scorer: Scorer, store: EncodedStore, data_dir: Path, *, key_columns: Sequence[str]
) -> pl.DataFrame:
    batches = event_batches(store, batch_size=_RANKING_BATCH)
    scores_ET = torch.cat([scorer.probabilities(batch) for batch in batches]).numpy()
    by_label = {f"score_{n}": scores_ET[:, t] for t, n in enumerate(scorer.manifest.labels)}
    scores = pl.DataFrame({columns.ROW: event_rows(store), **by_label})
    raw = scan_events(scorer.schema.feature_set, data_dir, require_labels=False)
    keys = raw.select(columns.ROW, *key_columns).collect(engine="streaming")
    return keys.join(scores, on=columns.ROW, how="inner").sort(columns.ROW).drop(columns.ROW)


def _scored_users(scorer: Scorer, store: EncodedStore, *, k: int) -> pl.DataFrame:
    feature_set = scorer.schema.feature_set
    user, item = feature_set.entity.user, feature_set.entity.item
    assert user is not None, "a sequence bundle has users"
    assert item is not None, "a sequence bundle has items"
    users = pl.read_parquet(store.users_file)["user"]
    best = pl.concat(list(_best_items(scorer, store, k=k)))
    return best.select(
        users.gather(best["user"]).alias(user),
        scorer.schema.decode(item, best["item"]).alias(item),
        "score",
        "rank",
    )


def _best_items(scorer: Scorer, store: EncodedStore, *, k: int) -> Iterator[pl.DataFrame]:
    for batch in user_batches(store, batch_size=_SEQUENCE_BATCH):
        scores_BV = remove_seen(
            scorer.catalogue_scores(batch), batch.targets_B, batch.seen_values, batch.seen_lengths_B
        )
        places = min(k, scores_BV.shape[1] - 1)
        items_BK = top_k(scores_BV, places)
        frame = pl.DataFrame(
            {
                "user": batch.users_B.repeat_interleave(places).numpy(),
                "item": items_BK.flatten().numpy(),
                "score": scores_BV.gather(1, items_BK).flatten().numpy(),
                "rank": torch.arange(1, places + 1).repeat(len(batch)).numpy(),
            }
        )
        yield frame.filter(pl.col("item") > 0)


def _check_keys(
    schema: FeatureSchema, data_dir: Path, names: Sequence[str], *, manifest: BundleManifest
) -> None:
    if manifest.task == "sequence" and names:
        raise RunConfigError(
            f"--columns: a sequence bundle gives users and items, "
            f"got {', '.join(names)}; leave it out"
        )
    raw = scan_events(schema.feature_set, data_dir, require_labels=False).collect_schema().names()
    there = [name for name in raw if not name.startswith(columns.RESERVED_PREFIX)]
    mistakes = [
        f"--columns: no such column in {data_dir}, got {name!r}; allowed {', '.join(there)}"
        f"{did_you_mean(name, there)}"
        for name in names
        if name not in there
    ]
    mistakes += [
        f"--columns: is named twice, got {name!r}; name it once"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    mistakes += [
        f"--columns: is the name of a score, got 'score_{label}'; rename the column in the data"
        for label in manifest.labels
        if f"score_{label}" in names
    ]
    if mistakes:
        raise DataError(mistakes)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser("python -m recsys score", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="what `export` made")
    parser.add_argument("data", type=Path, metavar="DATA", help="directory of raw Parquet files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to make")
    parser.add_argument(
        "--columns", default="", metavar="A,B", help="raw columns to repeat beside the scores"
    )
    parser.add_argument("-k", type=int, default=10, help="items per user, for sequence models")
    options = parser.parse_args(arguments)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a warning about its own internals
    names = [name.strip() for name in options.columns.split(",") if name.strip()]
    try:
        num_rows = score(options.bundle, options.data, options.out, key_columns=names, k=options.k)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"scored {num_rows:,} rows into {options.out}")
    return 0
