"""A whole job: from raw events to lists, vectors and a summary.

U users that are asked for · V items, the out-of-vocabulary id 0 included · K places.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import DataError, RunConfigError
from recsys.bundle import bundle_id
from recsys.data.scoring import encode_for_scoring
from recsys.data.store import EncodedStore
from recsys.item_names import item_names
from recsys.nearest.exact import Best, Candidates, best_items
from recsys.new_folder import check_out, new_folder
from recsys.retrieval.ann import mean_recall
from recsys.retrieval.indexes import Opened, SearchKind, check_settings, open_search
from recsys.retrieval.lists import match_ids
from recsys.retrieval.vectors import open_vectors, write_with_ids
from recsys.scoring.scorer import Scorer
from recsys.scoring.users import Search, Users, as_rows, best_of_each

SUMMARY, VECTORS, ENCODED = "summary.json", "vectors", "encoded"
_USERS_OF_PART = 32_768


@dataclass(frozen=True)
class Retrieval:
    """What to retrieve.

    Attributes:
        bundle: An exported sequence model.
        data: Folder with the files that the feature file names.
        out: Folder to make.
        places: Items per user.
        keep_seen: Whether items that a user has had may be given again.
        allow: File of the only items that may be given. None: all.
        deny: File of items that may not be given. None: none.
        users: File of the users that are asked for. None: all in the data.
        vectors: Whether vectors of users and items are written too.
        index: How items are searched for; all but `exact` may miss some.
        width: First numbers that a funnel reads. None: the fewest that were trained for.
        bits: Of codes. None: the only ones that were fitted.
    """

    bundle: Path
    data: Path
    out: Path
    places: int = 100
    keep_seen: bool = False
    allow: Path | None = None
    deny: Path | None = None
    users: Path | None = None
    vectors: bool = False
    index: SearchKind = "exact"
    width: int | None = None
    bits: int | None = None


def retrieve(job: Retrieval) -> dict[str, Any]:
    """Find the items; the output appears under its name only when complete.

    Args:
        job: What to retrieve.

    Returns:
        The content of `summary.json`.

    Raises:
        DataError: the data, or a file of ids, is not what the bundle expects.
        OutputError: the output cannot be made.
        RunConfigError: the output exists already, or an argument is wrong.
        SchemaMismatchError: the bundle is not whole.
    """
    if job.places < 1:
        raise RunConfigError(f"--k: is no number of items, got {job.places}; allowed 1 and more")
    check_out(job.out)
    check_settings(job.index, width=job.width, bits=job.bits)
    scorer = open_scorer(job.bundle)
    warnings: list[str] = []
    with new_folder(job.out) as unfinished:
        allowed_V = allowed_items(scorer, allow=job.allow, deny=job.deny, warnings=warnings)
        items = Candidates.of(scorer.item_vectors_VD, allowed_V=allowed_V)
        opened = None  # before the data is read, which may take long
        if job.index != "exact":
            opened = open_search(
                job.bundle, scorer, items, kind=job.index, width=job.width, bits=job.bits
            )
            warnings += opened.warnings
        store = encode_for_scoring(scorer.schema, job.data, unfinished / ENCODED)
        users = wanted_users(scorer, store, path=job.users, warnings=warnings)
        search, of_index = _search(job, scorer, store, users=users, items=items, opened=opened)
        num_rows = _write_parts(job, scorer, store, users=users, search=search, folder=unfinished)
        summary = {
            "bundle": bundle_id(job.bundle),
            "users": len(users),
            "items": len(items),
            "rows": num_rows,
            "index": of_index,
            "warnings": warnings,
        }
        (unfinished / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(unfinished / ENCODED)
    return summary


def open_scorer(bundle: Path) -> Scorer:
    """A sequence bundle.

    Raises:
        RunConfigError: it is another.
        SchemaMismatchError: it is not whole.
        DataError: a vector of an item is not finite.
    """
    scorer = Scorer(bundle)
    if scorer.manifest.task != "sequence":
        raise RunConfigError(
            f"{bundle}: ranks no items, got a bundle of task {scorer.manifest.task}; allowed "
            f"sequence; use `python -m recsys score`"
        )
    if not scorer.item_vectors_VD[1:].isfinite().all():
        raise DataError(
            f"{bundle}: has items whose vectors are not finite, got NaN or infinity; export an "
            f"earlier checkpoint"
        )
    return scorer


def allowed_items(
    scorer: Scorer, *, allow: Path | None, deny: Path | None, warnings: list[str]
) -> Tensor:
    """Which items (V,) may be given; what is to be said of the files is added to `warnings`.

    Args:
        scorer: Has the catalogue.
        allow: File of the only ones.
        deny: File of those that may not.
        warnings: Is added to.

    Raises:
        DataError: a file cannot be read, or nothing is left.
    """
    names = item_names(scorer.schema)
    allowed_V = torch.ones(len(names) + 1, dtype=torch.bool)
    for option, path in (("--allow", allow), ("--deny", deny)):
        if path is None:
            continue
        matched = match_ids(
            path,
            names,
            column=names.name,
            option=option,
            noun="item of the bundle",
            may_be_empty=option == "--deny",
        )
        listed_V = torch.zeros_like(allowed_V)
        listed_V[matched.places.to_torch() + 1] = True
        allowed_V &= listed_V if option == "--allow" else ~listed_V
        if warning := matched.warning(option, path, noun="items of the bundle"):
            warnings.append(warning)
    if not allowed_V[1:].any():
        raise DataError("--deny: leaves no item, got all of those that are allowed; deny fewer")
    return allowed_V


def wanted_users(
    scorer: Scorer, store: EncodedStore, *, path: Path | None, warnings: list[str]
) -> NDArray[np.int64]:
    """History rows of the users that are asked for.

    Args:
        scorer: Names the column of users.
        store: Has the users.
        path: File of their raw ids. None: all users.
        warnings: Is added to.

    Raises:
        DataError: the file cannot be read, or there are none.
    """
    names = store.read_users()
    if path is None:
        if not len(names):
            raise DataError("DATA: has no users, got no events; give some")
        return np.arange(len(names))
    user = scorer.schema.feature_set.entity.user
    assert user is not None, "a sequence bundle has users"
    noun = "user of the data"
    matched = match_ids(path, names, column=user, option="--users", noun=noun, may_be_empty=False)
    if warning := matched.warning("--users", path, noun="users of the data"):
        warnings.append(warning)
    return matched.places.to_numpy()


def _search(
    job: Retrieval,
    scorer: Scorer,
    store: EncodedStore,
    *,
    users: NDArray[np.int64],
    items: Candidates,
    opened: Opened | None,
) -> tuple[Search, dict[str, Any]]:
    """What finds items, and what the summary says of it."""

    def finding(best_items: Callable[..., Best]) -> Search:
        return lambda group: best_items(
            group.vectors_BD,
            k=job.places,
            seen=None if job.keep_seen else group.seen,
        )

    exact = finding(partial(best_items, items=items))
    if opened is None:
        return exact, {"kind": job.index}
    search = finding(opened.search.best_items)
    share, num_users = mean_recall(
        scorer, store, users, search=search, exact=exact, num_threads=torch.get_num_threads()
    )
    return search, {
        "kind": job.index,
        **opened.summary,
        "recall": share,
        "recall_users": num_users,
    }


def _write_parts(
    job: Retrieval,
    scorer: Scorer,
    store: EncodedStore,
    *,
    users: NDArray[np.int64],
    search: Search,
    folder: Path,
) -> int:
    """Write lists and vectors; gives the number of rows of the lists."""
    user_vectors: NDArray[np.float32] | None = None
    places_of_rows = np.empty(int(users.max()) + 1, np.int64)
    places_of_rows[users] = np.arange(len(users))
    if job.vectors:
        width = scorer.item_vectors_VD.shape[1]
        user_vectors = open_vectors(
            folder / VECTORS / "users.npy", num_rows=len(users), width=width
        )

    def keeping(group: Users) -> Best:
        if user_vectors is not None:
            user_vectors[places_of_rows[group.rows_B.numpy()]] = group.vectors_BD.numpy()
        return search(group)

    num_rows = 0
    for number, start in enumerate(range(0, len(users), _USERS_OF_PART)):
        part = users[start : start + _USERS_OF_PART]
        best = best_of_each(
            scorer, store, part, search=keeping, num_threads=torch.get_num_threads()
        )
        frame = as_rows(best, part, scorer=scorer, store=store)
        frame.write_parquet(folder / f"part-{number:05d}.parquet")
        num_rows += len(frame)
    if user_vectors is not None:
        names = store.names_of(users)
        user = scorer.schema.feature_set.entity.user
        assert user is not None, "a sequence bundle has users"
        _write_vectors(folder / VECTORS, names.alias(user), user_vectors, scorer=scorer)
    return num_rows


def _write_vectors(
    folder: Path, users: pl.Series, vectors: NDArray[np.float32], *, scorer: Scorer
) -> None:
    write_with_ids(folder / "users.parquet", users, vectors)
    of_items = scorer.item_vectors_VD[1:].numpy()
    np.save(folder / "items.npy", of_items)
    write_with_ids(folder / "items.parquet", item_names(scorer.schema), of_items)
