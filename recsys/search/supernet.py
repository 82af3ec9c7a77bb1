"""What widths of features are worth to a trained supernet, without training anything.

Tables are looked up once; a candidate is a mask on what was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from recsys.search.evolution import Candidate, Genes
from recsys.search.salience import auc
from recsys.search.sample import Sample
from recsys.tables.scheme import BYTES_PER_NUMBER
from recsys.tables.staged import SearchedScheme
from recsys.training.ranking import RankingTask


class Supernet:
    """A trained ranker whose features can be narrowed.

    Args:
        task: Whole and in evaluation mode.
        sample: Validation rows as it reads them.
        schemes: Tables whose features are narrowed, by name.
        dense_max_bytes: Larger tables will be sharded.

    Attributes:
        features: Table and feature of each gene.
        most: Greatest width of each.
        full_size: Numbers of rows of the greatest width for all ids.
    """

    def __init__(
        self,
        task: RankingTask,
        sample: Sample,
        schemes: Mapping[str, SearchedScheme],
        *,
        dense_max_bytes: int,
    ) -> None:
        self.task, self.sample, self._dense_max_bytes = task, sample, dense_max_bytes
        self.features = [(name, f) for name, scheme in schemes.items() for f in scheme.chosen]
        self.most = [schemes[name].table.dim for name, _ in self.features]
        weights = task.embedder.replicated.weights
        kept = {name: scheme.num_kept(dict(weights)) for name, scheme in schemes.items()}
        self._num_kept = [kept[name][feature] for name, feature in self.features]
        ids = {name: s.table.num_ids_per_namespace() for name, s in schemes.items()}
        counts = [ids[name][feature] or 0 for name, feature in self.features]
        self.full_size = sum(n * m for n, m in zip(counts, self.most, strict=True))
        place = {feature: number for number, feature in enumerate(self.features)}
        self._gene_of = {
            reader.key: place[name, reader.namespace]
            for name, scheme in schemes.items()
            for reader in scheme.table.readers
        }

    def stored(self, genes: Genes) -> Genes:
        """The widths that tables will have: of sharded ones fbgemm reads multiples of 4."""
        return tuple(
            min(-(-width // 4) * 4, most)
            if num_rows * width * BYTES_PER_NUMBER > self._dense_max_bytes
            else width
            for num_rows, width, most in zip(self._num_kept, genes, self.most, strict=True)
        )

    def candidate(self, genes: Genes) -> Candidate:
        """Widths that `stored` gives, with their AUC and size."""
        fields = {
            key: self._narrowed(key, vectors, genes)
            for key, vectors in self.sample.embedded.fields.items()
        }
        embedded = replace(self.sample.embedded, fields=fields)
        found = auc(self.task.ranker, replace(self.sample, embedded=embedded))
        return Candidate(genes, found, self.size(genes))

    def size(self, genes: Genes) -> int:
        """Numbers of all rows that are kept."""
        return sum(n * width for n, width in zip(self._num_kept, genes, strict=True))

    def _narrowed(self, key: str, vectors_ED: Tensor, genes: Genes) -> Tensor:
        if key not in self._gene_of or genes[self._gene_of[key]] == vectors_ED.shape[1]:
            return vectors_ED
        narrowed = vectors_ED.clone()
        narrowed[:, genes[self._gene_of[key]] :] = 0
        return narrowed
