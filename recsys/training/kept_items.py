"""Items that keep the vectors of an older bundle while a sequence model is trained around them.

K items that both know · D width of the older bundle, which may be that of the first numbers of
wider vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
from torch import Tensor

from features.errors import RunConfigError
from features.table_spec import FullTable
from recsys.bundle_items import BundleItems, common_items
from recsys.tables.after_steps import parts_of
from recsys.tables.embedder import Embedder
from recsys.tables.scheme import AfterStep, Part, Scheme
from recsys.tables.schemes.full import FullScheme
from recsys.training.older_items import OPTION


@dataclass(frozen=True)
class KeptItems:
    """What items are scored by from the first step to the last: freeze and extend.

    Attributes:
        ids_K: Ids in the model.
        vectors_KD: Of the older bundle.
    """

    ids_K: Tensor
    vectors_KD: Tensor

    @classmethod
    def of(
        cls, older: BundleItems, names: pl.Series, *, widths: Sequence[int], has_bias: bool
    ) -> KeptItems:
        """Those that both know.

        Args:
            older: Items of the older bundle.
            names: Raw ids of the model's items, from id 1 on.
            widths: At which the first numbers of the model's vectors serve alone.
            has_bias: Whether the model adds a bias to the score of each item.

        Raises:
            RunConfigError: vectors of the two cannot be compared, or they have no item in common.
        """
        ids_V = common_items(older, names, widths=widths, has_bias=has_bias, option=OPTION)
        if has_bias:
            raise RunConfigError(
                "model.compatible_with.how: items would keep their vectors and not their biases, "
                "got keep for an encoder with a bias of each item; allowed pull; set it, or take "
                "an encoder without, such as SASRec"
            )
        ids_K = ids_V.nonzero().squeeze(1)
        return cls(ids_K, older.vectors_VD[ids_V[ids_K]])

    def check(self, embedder: Embedder, *, key: str) -> None:
        """Refuse a table that has no row for each item, or has them where a GPU does not look.

        Args:
            embedder: Of the model.
            key: The reader that items are scored by.

        Raises:
            RunConfigError: it is of another scheme, or beside the GPU.
        """
        scheme = embedder.schemes[embedder.scheme_of[key]]
        assert isinstance(scheme, Scheme)
        table = scheme.table
        if not isinstance(table.spec, FullTable):
            raise RunConfigError(
                f"tables.{table.name}.scheme: items keep their vectors in rows of their own, got "
                f"{table.spec.scheme}; allowed full; change it, or set "
                f"model.compatible_with.how to pull"
            )
        if table.name in embedder.config.host_memory:
            raise RunConfigError(
                f"tables.host_memory: rows that keep their vectors lie on the GPU that reads them, "
                f"got {table.name!r}; allowed other tables; leave it out, or set "
                f"model.compatible_with.how to pull"
            )

    def after_step(self, embedder: Embedder, *, key: str) -> AfterStep:
        """Gives them their vectors, whatever the optimisers made of these.

        Args:
            embedder: Of the model, sharded or not; see `check`.
            key: The reader that items are scored by.
        """
        scheme = embedder.schemes[embedder.scheme_of[key]]
        assert isinstance(scheme, FullScheme)
        rows_K = scheme.remap({r.key: self.ids_K for r in scheme.table.readers})[key]
        of_rows = dict(parts_of(embedder))[scheme]
        pieces = [piece for part in of_rows for piece in self._pieces(part, rows_K)]

        def give_back(step: int) -> None:
            for values, rows, vectors in pieces:
                values[rows] = vectors

        return give_back

    def _pieces(self, part: Part, rows_K: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Columns of a part, rows of it, and what belongs there."""
        rows_K = rows_K - part.first_row
        is_here_K = (rows_K >= 0) & (rows_K < len(part.values))
        vectors = self.vectors_KD[is_here_K, part.first_column :][:, : part.values.shape[1]]
        if vectors.numel():
            columns = part.values[:, : vectors.shape[1]]
            yield columns, rows_K[is_here_K].to(columns.device), vectors.to(columns)
