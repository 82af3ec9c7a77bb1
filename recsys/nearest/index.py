"""Approximate search with FAISS: candidates from an index, their scores from the vectors.

B users · C candidates · D width · K places · M candidates that an index gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
from torch import Tensor

from features.errors import OutputError, RunConfigError, SchemaMismatchError
from recsys.nearest.exact import Best, Candidates, Seen, best_of, best_scored

IndexKind = Literal["ivf", "hnsw", "pq"]
_HNSW_LINKS, _HNSW_EF = 32, 200
_PQ_NUMBERS = 4  # of a vector to a byte
_PQ_BITS = 8
_PQ_FEWEST = 2  # items, as a bit tells two centres apart
_POINTS = 39  # that FAISS wants for each centre that it learns
_IVF_SHARE = 4  # a search visits one cell in so many
_TRAINED_ON = 200_000
# How many times k an index is asked for: its own order is not that of the scores.
_OVERFETCH = {"ivf": 1, "hnsw": 1, "pq": 4}


class ItemIndex:
    """Candidates in an index by dot product.

    Args:
        items: The candidates.
        kind: `ivf` visits some cells of the space, `hnsw` walks a graph, `pq` compares short codes.
        path: File that it is read from, or else built and saved as.

    Attributes:
        is_new: Whether it was built.
        is_exact: Whether it has the vectors themselves, as there are too few to learn codes of.
        bytes_per_item: Size of the file for each candidate.

    Raises:
        OutputError: it cannot be saved.
        RunConfigError: FAISS is not installed.
        SchemaMismatchError: the file is no index of these candidates.
    """

    def __init__(self, items: Candidates, *, kind: IndexKind, path: Path) -> None:
        faiss = _faiss()
        self._items, self._kind = items, kind
        self.is_new = not path.is_file()
        self.is_exact = kind == "pq" and len(items) < _PQ_FEWEST
        if self.is_new:
            self._index = _built(faiss, items.vectors_CD, kind=kind)
            _save(faiss, self._index, path)
        else:
            try:
                self._index = faiss.read_index(str(path))
            except RuntimeError as error:
                raise SchemaMismatchError(
                    f"{path}: is no index, got {str(error).splitlines()[-1]}; delete it, and it is "
                    f"built again"
                ) from None
        if self._index.ntotal != len(items):
            raise SchemaMismatchError(
                f"{path}: is of other items, got {self._index.ntotal}; allowed {len(items)}; "
                f"delete it, and it is built again"
            )
        self.bytes_per_item = path.stat().st_size / max(len(items), 1)

    def best_items(
        self,
        users_BD: Tensor,
        *,
        k: int,
        seen: Seen | None = None,
    ) -> Best:
        """About the best items; the arguments are those of `exact.best_items`."""
        wanted = _OVERFETCH[self._kind] * k + _most_seen(seen)
        return best_of(
            self._places(users_BD, wanted),
            users_BD,
            self._items,
            k=min(k, len(self._items)),
            seen=seen,
        )

    def first_step(
        self,
        users_BD: Tensor,
        *,
        k: int,
        seen: Seen | None = None,
    ) -> Tensor:
        """Ids (B, K) in the index's own order; the arguments are those of `exact.best_items`."""
        places_BM = self._places(users_BD, k + _most_seen(seen))
        falling_M = -torch.arange(places_BM.shape[1], dtype=torch.float32)
        return best_scored(
            places_BM,
            falling_M.expand(places_BM.shape),
            self._items,
            k=min(k, len(self._items)),
            seen=seen,
        ).ids_BK

    def _places(self, users_BD: Tensor, wanted: int) -> Tensor:
        wanted = min(wanted, len(self._items))
        parameters = self._parameters(wanted)
        users = users_BD.contiguous().numpy()
        with _one_thread():
            _, places = self._index.search(users, wanted, params=parameters)
        return torch.from_numpy(places)

    def _parameters(self, wanted: int) -> Any:
        faiss = _faiss()
        match self._kind:
            case "ivf":
                return faiss.SearchParametersIVF(nprobe=-(-self._index.nlist // _IVF_SHARE))
            case "hnsw":
                return faiss.SearchParametersHNSW(efSearch=max(_HNSW_EF, 2 * wanted))
            case "pq":
                return None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within, FAISS takes one thread: groups of users are shared out among threads already.

    The number is kept for each thread that calls FAISS, and torch reads and sets the same one.
    """
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _most_seen(seen: Seen | None) -> int:
    """How many places of an answer may be those of seen items."""
    if seen is None or not len(seen.lengths_B):
        return 0
    num_ids = int(seen.values.max()) + 1 if len(seen.values) else 1
    users = torch.arange(len(seen.lengths_B)).repeat_interleave(seen.lengths_B)
    different = (users * num_ids + seen.values).unique()
    return int((different // num_ids).bincount(minlength=1).max())


def _built(faiss: Any, vectors_CD: Tensor, *, kind: IndexKind) -> Any:
    count, width = vectors_CD.shape
    vectors = vectors_CD.contiguous().numpy()
    match kind:
        case "ivf":
            cells = max(1, min(round(4 * math.sqrt(count)), count // _POINTS))
            index = faiss.IndexIVFFlat(
                faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT
            )
        case "hnsw":
            index = faiss.IndexHNSWFlat(width, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        case "pq" if count < _PQ_FEWEST:
            index = faiss.IndexFlatIP(width)
        case "pq":
            parts = max(1, width // _PQ_NUMBERS)
            while width % parts:
                parts -= 1
            bits = min(_PQ_BITS, max(1, int(math.log2(max(count / _POINTS, 2)))))
            index = faiss.IndexPQ(width, parts, bits, faiss.METRIC_INNER_PRODUCT)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(count, generator=generator)[:_TRAINED_ON].sort().values.numpy()
    index.train(vectors[chosen])
    index.add(vectors)
    return index


def _save(faiss: Any, index: Any, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")  # others may build it, too
    try:
        faiss.write_index(index, str(partial))
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written, got {str(error).splitlines()[-1]}; make room, or let the "
            f"folder be written"
        ) from None


def _faiss() -> Any:
    try:
        return import_module("faiss")  # which has no types
    except ImportError:
        raise RunConfigError(
            "--index: needs FAISS, got none installed; allowed without it exact; run `make "
            "install`, which installs faiss-cpu"
        ) from None
