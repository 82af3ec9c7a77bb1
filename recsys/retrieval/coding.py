"""A whole job: from raw events to codes beside the bundle, and how well they find items."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch

from features.errors import RunConfigError
from recsys.bundle import bundle_id
from recsys.codes import codebook
from recsys.codes.search import CodeSearch
from recsys.data.scoring import encode_for_scoring
from recsys.nearest.exact import Candidates, best_items
from recsys.retrieval.ann import recall
from recsys.retrieval.codes import (
    check_bits,
    check_writable,
    codes_file,
    default_bits,
    fit_codes,
    split_users,
)
from recsys.retrieval.run import open_scorer, wanted_users
from recsys.scoring.users import Users, of_each_user

_PLACES = 100


@dataclass(frozen=True)
class Written:
    """Codes beside a bundle.

    Attributes:
        file: Of them.
        items: Number of items.
        bytes_per_item: Of their codes.
        vector_bytes: Of an item's vector.
        places: Length of the lists that recall is of.
        num_users: That it was measured on.
        recall: With candidates scored by their vectors.
        recall_alone: By the order of the codes.
    """

    file: Path
    items: int
    bytes_per_item: float
    vector_bytes: int
    places: int
    num_users: int
    recall: float
    recall_alone: float


def write_codes(bundle: Path, data: Path, *, bits: int | None = None) -> Written:
    """Fit codes and write their file, which appears under its name only when complete.

    Args:
        bundle: An exported sequence model.
        data: Folder with the files that the feature file names.
        bits: Of a code. None: a sixteenth of those of the vectors.

    Raises:
        DataError: the data is not what the bundle expects.
        OutputError: the file cannot be written.
        RunConfigError: the codes are there already, or the bundle has none of such a length.
        SchemaMismatchError: the bundle is not whole.
    """
    scorer = open_scorer(bundle)
    width = scorer.item_vectors_VD.shape[1]
    bits = default_bits(width) if bits is None else bits
    check_bits(bits, width=width)
    file = codes_file(bundle, bits=bits)
    if file.exists():
        raise RunConfigError(
            f"{file}: exists already, got codes of {bits} bits of this bundle; use them, remove "
            f"them, or give other --bits"
        )
    check_writable(file)
    encoded = file.with_name(f"{file.name}.{uuid4().hex}.encoded")  # others may fit them, too
    items = Candidates.of(scorer.item_vectors_VD)
    try:
        store = encode_for_scoring(scorer.schema, data, encoded)
        fitted, measured = split_users(len(wanted_users(scorer, store, path=None, warnings=[])))
        codes = fit_codes(scorer, store, users=fitted, bits=bits)
        search = CodeSearch(items, codebook=codes)

        def shares(group: Users) -> torch.Tensor:
            exact = best_items(group.vectors_BD, items, k=_PLACES, seen=group.seen)
            alone_BK = search.first_step(group.vectors_BD, k=_PLACES, seen=group.seen)
            found = search.best_items(group.vectors_BD, k=_PLACES, seen=group.seen)
            both = (recall(alone_BK, exact.ids_BK), recall(found.ids_BK, exact.ids_BK))
            return torch.stack(both, dim=1)

        groups = of_each_user(
            scorer, store, measured, find=shares, num_threads=torch.get_num_threads()
        )
        alone, found = torch.cat([group for _, group in groups]).mean(dim=0).tolist()
        codebook.save(codes, file, bundle=bundle_id(bundle))
    finally:
        shutil.rmtree(encoded, ignore_errors=True)
    return Written(
        file=bundle.with_name(file.name) if bundle.name else file,
        items=len(items),
        bytes_per_item=search.bytes_per_item,
        vector_bytes=items.vectors_CD.element_size() * width,
        places=_PLACES,
        num_users=len(measured),
        recall=found,
        recall_alone=alone,
    )
