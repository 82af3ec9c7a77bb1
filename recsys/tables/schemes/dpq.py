"""Differentiable product quantisation: codes that are learned together with the values they pick.

Shape legend: L ids, P parts of a vector, W numbers of a part, K choices of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from features.table_spec import DPQTable, MGQETable
from recsys.tables.blocks import bounded_rows
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import INIT_BOUND, Lookup, PhysicalTable, Scheme
from recsys.tables.schemes.coded import CodedScheme, code_sizes

_SCORES_AT_ONCE = 1 << 24
_NUM_TRIALS, _NUM_HALVINGS = 512, 20


class DPQScheme(Scheme):
    """A row for every id, its query; each part of it picks one of K values, which is what is read.

    In mode vq a query picks the nearest value. The value has the gradient of what is read, and the
    query has it too, as if the value were the query (straight through). The penalty brings both
    together: |value - sg(query)|^2 + commitment |sg(value) - query|^2 on average over the ids of a
    rank. In mode sx a query picks the value whose key has the largest product with it; in the
    backward pass the softmax of the products stands for the choice.

    Training holds all queries, as large as a full table, beside values and keys. A bundle has the
    values and the codes alone, and these are what a budget, and `num_bytes`, count.

    The rare ids of mgqe have a quarter of the choices. Ids are in the order of their counts.

    Args:
        table: The logical table.
        spec: Its rows or budget, and its parts.

    Raises:
        FeatureConfigError: the parts do not divide the width, a reader's ids are unbounded, or
            there is no room for a choice.

    Source: Chen et al., Differentiable Product Quantization (2020),
    https://arxiv.org/abs/1908.09756, sections 2.2 and 2.3; Kang et al., MGQE (2020),
    https://arxiv.org/abs/2002.08530.

    Differs from the papers: no batch normalisation of distances, which would give other vectors on
    several ranks than on one; queries start so wide that what they pick has the variance of all
    schemes. Values of vq have a gradient of their own, where the paper's follow the penalty alone.
    """

    combines_linearly = False

    def __init__(self, table: LogicalTable, *, spec: DPQTable | MGQETable) -> None:
        sizes = code_sizes(table, spec)
        shape = (sizes.num_parts, sizes.num_choices, sizes.width)
        values_PKW = torch.empty(shape).uniform_(-INIT_BOUND, INIT_BOUND)
        self._num_rare_choices = min(x.num_rare_choices for x in sizes.layouts.values())
        own = bounded_rows(table)
        is_vq = isinstance(spec, MGQETable) or spec.mode == "vq"
        physical = PhysicalTable(
            table.name,
            num_rows=sum(block.size for block in own.values()),
            dim=table.dim,
            init_bound=_query_bound(values_PKW, self._num_rare_choices) if is_vq else INIT_BOUND,
        )
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(Lookup(r.key, r.key, physical.name) for r in table.readers),
            widths={r.key: table.dim for r in table.readers},
        )
        self.spec, self.own, self.sizes, self.is_vq = spec, own, sizes, is_vq
        self.values_PKW = nn.Parameter(values_PKW)
        if not is_vq:
            self.keys_PKW = nn.Parameter(torch.empty(shape).uniform_(-INIT_BOUND, INIT_BOUND))
        self._penalties: list[tuple[Tensor, int]] = []

    def row_meaning(self) -> dict[str, Any]:
        """The first row of each feature, and what its query is cut into."""
        return {
            "scheme": self.table.spec.scheme,
            "first_row": {name: block.first for name, block in self.own.items()},
            "num_parts": self.sizes.num_parts,
            "num_choices": self.sizes.num_choices,
        }

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shift the ids to the feature's block of queries."""
        return {r.key: ids[r.key] + self.own[r.namespace].first for r in self.table.readers}

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The values that the queries pick."""
        found = {}
        for r in self.table.readers:
            queries_LPW = vectors[r.key].unflatten(1, (self.sizes.num_parts, -1))
            is_rare_L = self.sizes.layouts[r.namespace].is_rare(ids[r.key])
            pick = self._nearest if self.is_vq else self._likeliest
            found[r.key] = pick(queries_LPW, is_rare_L).flatten(1)
        return found

    def penalty(self) -> Tensor | None:
        """What queries and values are apart, on average over all ids looked up since the last."""
        penalties, self._penalties = self._penalties, []
        num_ids = sum(count for _, count in penalties)
        return torch.stack([p for p, _ in penalties]).sum() / num_ids if num_ids else None

    def codes(self, queries_LPW: Tensor, is_rare_L: Tensor) -> Tensor:
        """Codes (L, P) of some ids, the first of several as good.

        Args:
            queries_LPW: Their queries.
            is_rare_L: Which have the fewer choices.
        """
        size = max(1, _SCORES_AT_ONCE // (self.sizes.num_parts * self.sizes.num_choices))
        parts = zip(queries_LPW.detach().split(size), is_rare_L.split(size), strict=True)
        keys_PKW = (self.values_PKW if self.is_vq else self.keys_PKW).detach()
        num_rare_choices = self._num_rare_choices
        return torch.cat([_best(self._scores(q, keys_PKW), r, num_rare_choices) for q, r in parts])

    @property
    def num_bytes(self) -> int:
        """Codes and values, as a bundle stores them."""
        return self.sizes.num_bytes

    def served(self, weights: Mapping[str, Tensor]) -> tuple[Scheme, dict[str, Tensor]]:
        """Codes and values."""
        scheme = CodedScheme(self.table, spec=self.spec)
        queries_VPW = weights[self.physical_tables[0].name].unflatten(1, (self.sizes.num_parts, -1))
        for name, block in self.own.items():
            is_rare_N = self.sizes.layouts[name].is_rare(torch.arange(block.size))
            queries_NPW = queries_VPW[block.first : block.first + block.size]
            scheme.set_codes(name, self.codes(queries_NPW, is_rare_N))
        [physical] = scheme.physical_tables
        return scheme, {physical.name: self.values_PKW.detach().flatten(0, 1)}

    # ---------------------------------------------------------------------------------- inside
    def _nearest(self, queries_LPW: Tensor, is_rare_L: Tensor) -> Tensor:
        values_LPW = self._picked(self.codes(queries_LPW, is_rare_L))
        if self.training and torch.is_grad_enabled():
            commitment = self.spec.commitment
            apart = (values_LPW - queries_LPW.detach()).square().sum()
            apart = apart + commitment * (values_LPW.detach() - queries_LPW).square().sum()
            self._penalties.append((apart, len(queries_LPW)))
        return values_LPW + (queries_LPW - queries_LPW.detach())

    def _likeliest(self, queries_LPW: Tensor, is_rare_L: Tensor) -> Tensor:
        picked_LPW = self._picked(self.codes(queries_LPW, is_rare_L))
        if not torch.is_grad_enabled():
            return picked_LPW
        shares_PLK = self._scores(queries_LPW, self.keys_PKW).softmax(2)
        # Nothing is added but a gradient, as if the shares were what picks.
        likely_LPW = (shares_PLK @ self.values_PKW.detach()).transpose(0, 1)
        return picked_LPW + (likely_LPW - likely_LPW.detach())

    def _picked(self, codes_LP: Tensor) -> Tensor:
        parts_P = torch.arange(self.sizes.num_parts, device=codes_LP.device)
        rows_LP = codes_LP + parts_P * self.sizes.num_choices
        return nn.functional.embedding(rows_LP, self.values_PKW.flatten(0, 1))

    def _scores(self, queries_LPW: Tensor, keys_PKW: Tensor) -> Tensor:
        return _scores(queries_LPW, keys_PKW, by_distance=self.is_vq)


def _scores(queries_LPW: Tensor, keys_PKW: Tensor, *, by_distance: bool) -> Tensor:
    """The larger, the better (P, L, K); in full precision, as a bundle picks its codes."""
    # By distance: twice the product, without the square of the query, which all keys share.
    squares_P1K = keys_PKW.square().sum(2).unsqueeze(1)
    with torch.autocast(queries_LPW.device.type, enabled=False):
        return torch.baddbmm(
            squares_P1K,
            queries_LPW.transpose(0, 1),
            keys_PKW.transpose(1, 2),
            beta=-1 if by_distance else 0,
            alpha=2 if by_distance else 1,
        )


def _best(scores_PLK: Tensor, is_rare_L: Tensor, num_rare_choices: int) -> Tensor:
    """Places (L, P) of the largest score, for rare ids among the first choices alone."""
    best_PL = scores_PLK.argmax(2)
    if num_rare_choices < scores_PLK.shape[2]:
        rare_PLK = scores_PLK[:, :, :num_rare_choices].contiguous()  # argmax is slow without
        best_PL = torch.where(is_rare_L, rare_PLK.argmax(2), best_PL)
    return best_PL.T


def _query_bound(values_PKW: Tensor, num_rare_choices: int) -> float:
    """How wide queries start, so that the values nearest to them vary as all values do.

    Around narrow ones lie small values; measured on random queries, most of them of rare ids.
    """
    num_parts, _, width = values_PKW.shape
    trials_LPW = torch.rand(_NUM_TRIALS, num_parts, width) * 2 - 1
    is_rare_L = torch.arange(_NUM_TRIALS) >= _NUM_TRIALS // 10
    rows = torch.arange(num_parts)

    def spread(bound: float) -> float:
        scores_PLK = _scores(trials_LPW * bound, values_PKW, by_distance=True)
        picked = values_PKW[rows, _best(scores_PLK, is_rare_L, num_rare_choices)]
        return float(picked.square().mean().sqrt())

    low, high = INIT_BOUND, 32 * INIT_BOUND
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if spread(middle) < INIT_BOUND / 3**0.5 else (low, middle)
    return high
