"""Clustered compositional embeddings: hashes at first, then clusters that training has found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from features.table_spec import CCETable
from recsys.tables.blocks import Block, as_lists, blocks, bounded_rows
from recsys.tables.budget import rows_for
from recsys.tables.chunks import chunk_width
from recsys.tables.hashing import hash_to_rows, salt, splitmix64
from recsys.tables.indices import index_dtype
from recsys.tables.kmeans import k_means, means
from recsys.tables.logical import LogicalTable
from recsys.tables.readers import HashedRead, HashedReads
from recsys.tables.scheme import INIT_BOUND, AfterStep, Lookup, Part, PhysicalTable, Scheme
from recsys.tables.whole import is_parallel, whole_table, write_parts


class CCEScheme(Scheme):
    """Chunks of a vector, each the sum of a row of the id's cluster and a row by hash.

    Clusters are hashes at first. After every so many steps of the optimiser the sums of all ids are
    clustered anew, chunk by chunk: the first rows become the centroids, and the second ones, under
    new hashes, the mean of what their ids differ from their centroids by.

    The one physical table has the rows of all chunks' clusters, then those of all chunks' hashes.
    Which cluster an id belongs to is a buffer on every rank, beside the rows in checkpoints and
    bundles; a budget counts the rows alone.

    All ranks put the table together, the first one clusters, and the others take over its result.
    What the optimiser keeps for a row stays with the row, as in the authors' code: its running
    averages are soon those of the new one, and its sums of squares go on.

    Args:
        table: The logical table.
        spec: Its rows or budget, its chunks, and when it is clustered.

    Raises:
        FeatureConfigError: the chunks do not divide the width, a reader's ids are unbounded, or
            there is no room for a row.

    Source: Tsang and Ahle, Clustering the Sketch (2023), https://arxiv.org/abs/2210.05974,
    algorithm 3; residuals as in https://github.com/thomasahle/cce.

    Differs from the paper: it clusters after numbers of steps, not of epochs; and features that
    share the table are clustered together.
    """

    remap_is_fixed: ClassVar[bool] = False  # a clustering moves ids to other rows

    num_clusterings: Tensor

    takes_half_rows = False  # k-means writes rows

    def __init__(self, table: LogicalTable, *, spec: CCETable) -> None:
        width = chunk_width(table, spec.num_chunks, key="num_chunks")
        own = bounded_rows(table)
        num_rows = rows_for(table, row_width=2 * table.dim)
        physical = PhysicalTable(
            table.name,
            num_rows=2 * spec.num_chunks * num_rows,
            dim=width,
            init_bound=INIT_BOUND / sqrt(2),  # a vector is a sum of two
        )
        lookups = [
            Lookup(name, r.key, physical.name)
            for r in table.readers
            for chunk in range(spec.num_chunks)
            for name in (_cluster(r.key, chunk), _hash(r.key, chunk))
        ]
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(lookups),
            widths={r.key: table.dim for r in table.readers},
        )
        self.spec = spec
        self.num_rows = num_rows
        self.own = {name: Block(0, block.size) for name, block in own.items()}
        self.blocks = blocks(table, num_rows, multiplexed=spec.multiplexed)
        self.reads = HashedReads(
            [
                HashedRead(
                    _hash(r.key, chunk),
                    r.key,
                    salt("cce", spec.seed, r.salt_name, chunk),
                    self._block(r.namespace, spec.num_chunks + chunk),
                )
                for r in table.readers
                for chunk in range(spec.num_chunks)
            ]
        )
        self.register_buffer("num_clusterings", torch.zeros((), dtype=torch.int64))
        for name, ids in self.own.items():
            self.register_buffer(_buffer(name), self._first_clusters(name, num_ids=ids.size))

    # ----------------------------------------------------------------------------------- rows
    def row_meaning(self) -> dict[str, Any]:
        """Seed, chunks and blocks; clusters lie beside the rows."""
        return {
            "scheme": "cce",
            "seed": self.spec.seed,
            "num_chunks": self.spec.num_chunks,
            "blocks": as_lists(self.blocks),
        }

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each chunk the row of the id's cluster, and a hash of it."""
        found = self._hashed(ids, self.num_clusterings)
        for r in self.table.readers:
            own_L = ids[r.key] + self.own[r.namespace].first
            clusters_LC = self.clusters(r.namespace)[own_L].long()
            for chunk, clusters_L in enumerate(clusters_LC.unbind(1)):
                first = self._block(r.namespace, chunk).first
                found[_cluster(r.key, chunk)] = first + clusters_L
        return found

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Add the two rows of each chunk, and concatenate the chunks."""
        return {
            r.key: torch.cat(
                [
                    vectors[_cluster(r.key, chunk)] + vectors[_hash(r.key, chunk)]
                    for chunk in range(self.spec.num_chunks)
                ],
                dim=1,
            )
            for r in self.table.readers
        }

    def clusters(self, namespace: str) -> Tensor:
        """Of each id of a feature (N, C): its clusters, within the block of the feature."""
        return self.get_buffer(_buffer(namespace))

    def _hashed(self, ids: Mapping[str, Tensor], num_clusterings: Tensor) -> dict[str, Tensor]:
        values, (salts, first, size), counts = self.reads.spread(ids)
        rows = first + hash_to_rows(values, splitmix64(salts + num_clusterings), size)
        return dict(zip([read.name for read in self.reads.reads], rows.split(counts), strict=True))

    def _block(self, namespace: str, place: int) -> Block:
        """Rows of a feature: in those of a chunk's clusters, or C places on, of its hashes."""
        block = self.blocks[namespace]
        return Block(place * self.num_rows + block.first, block.size)

    def _first_clusters(self, namespace: str, *, num_ids: int) -> Tensor:
        size = self.blocks[namespace].size
        first_name = self.table.salt_names()[namespace]
        salts = [
            salt("cce clusters", self.spec.seed, first_name, chunk)
            for chunk in range(self.spec.num_chunks)
        ]
        clusters_NC = hash_to_rows(torch.arange(num_ids).unsqueeze(1), torch.tensor(salts), size)
        return clusters_NC.to(index_dtype(size))

    # ------------------------------------------------------------------------------- clustering
    def after_steps(self, parts: Sequence[Part]) -> AfterStep | None:
        """Cluster after each `cluster_every` steps, up to `num_clusterings` times."""

        def cluster(step: int) -> None:
            turn, left = divmod(step + 1, self.spec.cluster_every)
            if left == 0 and turn <= self.spec.num_clusterings:
                self._cluster(parts)

        return cluster

    @torch.no_grad()
    def _cluster(self, parts: Sequence[Part]) -> None:
        """Cluster the table that all ranks hold; every rank calls it."""
        [table] = self.physical_tables
        rows_VW = whole_table(table, parts, device=self.num_clusterings.device)
        if not is_parallel():
            write_parts(parts, self.clustered(rows_VW))
            return
        if dist.get_rank() == 0:
            rows_VW = self.clustered(rows_VW)
        dist.broadcast(rows_VW, src=0)
        for tensor in (self.num_clusterings, *map(self.clusters, self.own)):
            sent = tensor.long()  # gloo knows no numbers of 16 bits
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)
        write_parts(parts, rows_VW)

    def clustered(self, rows_VW: Tensor) -> Tensor:
        """Rows of the physical table after a clustering; the buffers follow.

        Args:
            rows_VW: As training has left them.
        """
        ids = self._every_id(rows_VW.device)
        before, after = self.remap(ids), self._hashed(ids, self.num_clusterings + 1)
        found_VW = rows_VW.clone()
        for block, names in self._features_by_block():
            keys = {r.namespace: r.key for r in self.table.readers[::-1]}
            for chunk in range(self.spec.num_chunks):
                points_ND = torch.cat(
                    [
                        rows_VW[before[_cluster(keys[n], chunk)]]
                        + rows_VW[before[_hash(keys[n], chunk)]]
                        for n in names
                    ]
                )
                turn = int(self.num_clusterings)
                seed = salt("cce", self.spec.seed, turn, chunk, block.first) & 0x7FFFFFFF
                centroids_KD, clusters_N = k_means(points_ND, block.size, seed=seed)
                first = self._block(names[0], chunk).first
                found_VW[first : first + len(centroids_KD)] = centroids_KD
                counts = [self.own[n].size for n in names]
                for n, of_feature in zip(names, clusters_N.split(counts), strict=True):
                    self.clusters(n)[:, chunk] = of_feature.to(self.clusters(n).dtype)
                hashes = self._block(names[0], self.spec.num_chunks + chunk)
                hashed_N = torch.cat([after[_hash(keys[n], chunk)] for n in names]) - hashes.first
                residuals_ND = points_ND - centroids_KD[clusters_N]
                found_VW[hashes.first : hashes.first + hashes.size], _ = means(
                    residuals_ND, hashed_N, hashes.size
                )
        self.num_clusterings += 1
        return found_VW

    def _every_id(self, device: torch.device) -> dict[str, Tensor]:
        """Ids of each feature once, whichever of its readers gets them."""
        left = dict(self.own)
        return {
            r.key: torch.arange(left.pop(r.namespace, Block(0, 0)).size, device=device)
            for r in self.table.readers
        }

    def _features_by_block(self) -> Iterator[tuple[Block, list[str]]]:
        """Features that share rows, and are clustered together."""
        for block in dict.fromkeys(self.blocks.values()):
            yield block, [name for name, own in self.blocks.items() if own == block]


def _cluster(key: str, chunk: int) -> str:
    return f"{key}@cluster{chunk}"


def _hash(key: str, chunk: int) -> str:
    return f"{key}@hash{chunk}"


def _buffer(namespace: str) -> str:
    return f"clusters_of_{namespace}"
