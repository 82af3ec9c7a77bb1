"""The smaller forms of a bundle's item vectors that are compared with each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from recsys.codes.codebook import Codebook
from recsys.codes.search import CodeSearch
from recsys.nearest.exact import Candidates, Scores
from recsys.nearest.two_steps import Funnel, TwoSteps
from recsys.retrieval.indexes import FAISS, ItemSearch, first_numbers, open_search
from recsys.scoring.scorer import Scorer
from recsys.tables.few_bits import FewBitRows


@dataclass(frozen=True)
class Form:
    """Vectors of items in a form of their own, and what is found by them.

    Attributes:
        family: What it is one of: `numbers`, `first numbers`, `codes` or `FAISS`.
        name: Of the form.
        search: Finds items by it.
    """

    family: str
    name: str
    search: ItemSearch


class Rounded(TwoSteps):
    """Candidates by vectors that are stored in fewer bits.

    Args:
        items: The candidates.
        vectors_CD: What is left of their vectors.
        bytes_per_item: That these are stored in.
    """

    def __init__(self, items: Candidates, *, vectors_CD: Tensor, bytes_per_item: float) -> None:
        super().__init__(items)
        self._vectors_CD, self.bytes_per_item = vectors_CD, bytes_per_item

    def scores(self, users_BD: Tensor) -> Scores:
        """Dot products with what is left."""
        return lambda part: users_BD @ self._vectors_CD[part].T


def forms(
    bundle: Path, scorer: Scorer, items: Candidates, *, codes: Mapping[int, Codebook]
) -> Iterator[Form]:
    """All of them; indexes of FAISS are built beside the bundle, where it is installed.

    Args:
        bundle: Its directory.
        scorer: The bundle.
        items: That are found.
        codes: By bits.
    """
    vectors_CD = items.vectors_CD
    width = vectors_CD.shape[1]
    yield Form("numbers", "fp32", _rounded(items, vectors_CD, bits=32))
    if vectors_CD.abs().max() <= torch.finfo(torch.float16).max:
        yield Form("numbers", "fp16", _rounded(items, vectors_CD.half().float(), bits=16))
        rows = FewBitRows.nearest(vectors_CD, bits=8)
        few_CD = rows(torch.arange(len(items)))
        bytes_per_item = sum(b.nbytes for b in rows.buffers()) / len(items)
        yield Form(
            "numbers", "int8", Rounded(items, vectors_CD=few_CD, bytes_per_item=bytes_per_item)
        )
    trained = scorer.manifest.prefix_widths
    for first in sorted(trained or _cut(scorer.manifest.width or width), reverse=True):
        name = f"first {first}" + ("" if trained else ", untrained")
        yield Form("first numbers", name, Funnel(items, numbers=first_numbers(scorer, first)))
    for bits, codebook in sorted(codes.items(), reverse=True):
        yield Form("codes", f"codes {bits}", CodeSearch(items, codebook=codebook))
    for kind in FAISS if find_spec("faiss") else ():
        yield Form("FAISS", kind, open_search(bundle, scorer, items, kind=kind).search)


def _rounded(items: Candidates, vectors_CD: Tensor, *, bits: int) -> Rounded:
    bytes_per_item = vectors_CD.shape[1] * bits / 8
    return Rounded(items, vectors_CD=vectors_CD, bytes_per_item=bytes_per_item)


def _cut(width: int) -> Sequence[int]:
    """Half of the numbers, a quarter and an eighth."""
    return sorted({width // part for part in (2, 4, 8)} - {0})
