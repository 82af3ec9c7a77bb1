"""Search through an index that lies beside the bundle, and how much of the exact lists it finds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.bundle import bundle_id
from recsys.data.store import EncodedStore
from recsys.nearest.exact import Candidates
from recsys.nearest.index import IndexKind
from recsys.scoring.scorer import Scorer
from recsys.scoring.users import Search, of_each_user

_SAMPLE = 1000


def index_file(bundle: Path, *, kind: IndexKind, items: Candidates) -> Path:
    """Where the index of some items of a bundle lies; another bundle or list has another name.

    Args:
        bundle: Its directory.
        kind: Of index.
        items: That it finds.
    """
    digest = hashlib.sha256(bundle_id(bundle).encode() + items.ids_C.numpy().tobytes())
    bundle = bundle.absolute()  # which has a name where it is "."
    return bundle.with_name(f"{bundle.name}.{kind}-{digest.hexdigest()[:12]}.faiss")


def recall(found_BK: Tensor, exact_BK: Tensor) -> Tensor:
    """Share of each user's exact list that was found, (B,); 1 where that list is empty.

    Args:
        found_BK: Item ids, 0 where there is none.
        exact_BK: The same.
    """
    is_item_BK = exact_BK > 0
    is_found_BK = torch.zeros_like(is_item_BK)
    for user, (exact_K, found_K) in enumerate(zip(exact_BK, found_BK, strict=True)):
        is_found_BK[user] = torch.isin(exact_K, found_K)
    is_found_BK &= is_item_BK
    shares_B = is_found_BK.sum(dim=1) / is_item_BK.sum(dim=1).clamp(min=1)
    return shares_B.where(is_item_BK.any(dim=1), 1.0)


def mean_recall(
    scorer: Scorer,
    store: EncodedStore,
    users: NDArray[np.int64],
    *,
    search: Search,
    exact: Search,
    num_threads: int,
) -> tuple[float, int]:
    """Recall of a search against the exact one, and the number of users it was measured on.

    Args:
        scorer: A sequence bundle.
        store: Has the histories.
        users: History rows, of which some are taken at equal distances.
        search: What is measured.
        exact: What it is compared with.
        num_threads: Groups of users that are worked on at once.
    """
    sample = users[np.linspace(0, len(users) - 1, min(_SAMPLE, len(users))).astype(np.int64)]
    found = of_each_user(
        scorer,
        store,
        sample,
        find=lambda group: recall(search(group).ids_BK, exact(group).ids_BK),
        num_threads=num_threads,
    )
    return float(torch.cat([shares_B for _, shares_B in found]).mean()), len(sample)
