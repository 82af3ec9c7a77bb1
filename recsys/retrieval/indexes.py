"""The ways to search for items of a bundle that may miss some.

B users · K places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from features.errors import RunConfigError
from recsys.codes.search import CodeSearch
from recsys.nearest.exact import Best, Candidates, Seen
from recsys.nearest.index import IndexKind, ItemIndex
from recsys.nearest.two_steps import Funnel
from recsys.retrieval.ann import index_file
from recsys.retrieval.codes import load_codes
from recsys.scoring.scorer import Scorer

SearchKind = Literal["exact", "ivf", "hnsw", "pq", "funnel", "codes"]
FAISS: tuple[IndexKind, ...] = get_args(IndexKind)


class ItemSearch(Protocol):
    """Finds about the best items of users."""

    bytes_per_item: float

    def best_items(
        self,
        users_BD: Tensor,
        *,
        k: int,
        seen: Seen | None = None,
    ) -> Best:
        """About the best items, with exact scores."""
        ...

    def first_step(
        self,
        users_BD: Tensor,
        *,
        k: int,
        seen: Seen | None = None,
    ) -> Tensor:
        """Ids (B, K) by the order of the search itself, 0 where none is left."""
        ...


@dataclass(frozen=True)
class Opened:
    """A search, and what a summary says of it.

    Attributes:
        search: It.
        summary: Its file, and whether it is new, where there is one.
        warnings: What else there is to say.
    """

    search: ItemSearch
    summary: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def open_search(
    bundle: Path,
    scorer: Scorer,
    items: Candidates,
    *,
    kind: Literal["ivf", "hnsw", "pq", "funnel", "codes"],
    width: int | None = None,
    bits: int | None = None,
) -> Opened:
    """A search of some items.

    Args:
        bundle: Its directory.
        scorer: The bundle.
        items: What is found.
        kind: How.
        width: First numbers that a funnel reads. None: the fewest that were trained for.
        bits: Of codes. None: the only ones that were fitted.

    Raises:
        OutputError: an index cannot be saved.
        RunConfigError: the bundle has no such widths or codes, or FAISS is not installed.
        SchemaMismatchError: a file is damaged.
    """
    match kind:
        case "funnel":
            width = _width(scorer, width)
            funnel = Funnel(items, numbers=first_numbers(scorer, width))
            return Opened(funnel, {"width": width})
        case "codes":
            codebook, file = load_codes(bundle, bits=bits, scorer=scorer)
            search = CodeSearch(items, codebook=codebook)
            return Opened(search, {"bits": codebook.bits, "file": file.name, "is_new": False})
        case _:
            file = index_file(bundle, kind=kind, items=items)
            index = ItemIndex(items, kind=kind, path=file)
            warning = (
                f"--index {kind}: learns codes of 2 items and more, got {len(items)}; it is "
                f"searched exactly"
            )
            return Opened(
                index,
                {"file": file.name, "is_new": index.is_new},
                (warning,) if index.is_exact else (),
            )


def check_settings(kind: SearchKind, *, width: int | None, bits: int | None) -> None:
    """Refuse settings of another kind of search.

    Args:
        kind: How items are searched for.
        width: That was asked for, if any.
        bits: The same.

    Raises:
        RunConfigError: one does not belong to the kind.
    """
    mistakes = [
        f"--{name}: is of --index {owner}, got {value} with --index {kind}; leave it out, or add "
        f"--index {owner}"
        for name, value, owner in (("width", width, "funnel"), ("bits", bits, "codes"))
        if value is not None and kind != owner
    ]
    if mistakes:
        raise RunConfigError(mistakes)


def first_numbers(scorer: Scorer, width: int) -> Sequence[int]:
    """Which numbers of a bundle's vectors are the first ones; the bias of items is always one."""
    total, full = scorer.item_vectors_VD.shape[1], scorer.manifest.width
    assert full is not None, "a sequence bundle has a width"
    return [*range(width), *range(full, total)]


def _width(scorer: Scorer, width: int | None) -> int:
    trained = scorer.manifest.prefix_widths
    if not trained:
        raise RunConfigError(
            "--index funnel: needs vectors whose first numbers serve alone, got a bundle that "
            "knows of none; train with model.prefix_widths, and export again"
        )
    if width is not None and width not in trained:
        raise RunConfigError(
            f"--width: was not trained for, got {width}; allowed {', '.join(map(str, trained))}"
        )
    return min(trained) if width is None else width
