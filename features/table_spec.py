"""How a table is stored: the part of the feature file that a person changes by one word."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from features.spec_base import Spec


class TableBase(Spec):
    """What every stored table has, whatever its scheme."""

    dim: Annotated[int, Field(ge=1)] | None = None
    """Width of the vector of an id. None: that of `defaults`."""
    renamed_from: str | None = None
    """The table's first name, from before it was renamed; stays for good."""


class StagedTable(TableBase):
    """A table that is trained more than once, by `python -m recsys search`.

    The first training finds out what of it is of use, the last one trains a planned table of that.
    """


class PlannedTable(TableBase):
    """A table cut down by a plan, as an earlier stage of training wrote it."""

    plan: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    """Name of the plan's file, which lies beside the feature file."""


class FullTable(TableBase):
    """A row of its own for every id of every feature that reads the table."""

    scheme: Literal["full"] = "full"


class SizedTable(TableBase):
    """A table whose size is a choice: the bytes it may take, or as many as rows of its width do."""

    rows: Annotated[int, Field(ge=1)] | None = None
    """Rows of `dim` numbers; a scheme without such rows may take as many bytes."""
    budget: str | int | None = None
    """Bytes of all trainable lookup parameters, as a number or '12.5MB', '800 kB', '2 GiB'."""

    @model_validator(mode="after")
    def _rows_or_budget(self) -> SizedTable:
        if (self.rows is None) == (self.budget is None):
            got = "neither" if self.rows is None else "both"
            raise ValueError(f"rows: needs exactly one of rows and budget, got {got}")
        return self


class HashTable(SizedTable):
    """Feature hashing: id -> hash(id) mod rows; several features get a block of rows each."""

    scheme: Literal["hash"]


class UnifiedTable(SizedTable):
    """Feature multiplexing: features share all rows, each (feature, probe) by its own hash."""

    scheme: Literal["unified"]
    seed: int = 0
    num_tables: Annotated[int, Field(ge=1)] = 1
    """Tables that the rows are cut into; the probes of all features take turns in them."""


class MultiplexedTable(SizedTable):
    """A scheme that several features can share."""

    multiplexed: bool = True
    """Whether features share all of it, each by hashes of its own; else each has a part of it, in
    proportion to its ids."""
    seed: int = 0


class MultihashTable(MultiplexedTable):
    """Hash embeddings: a weighted sum of several rows, the weights learned per id."""

    scheme: Literal["multihash"]
    num_hashes: Annotated[int, Field(ge=2)] = 2
    """Rows of an id."""
    weighted: bool = True
    """Whether rows are weighted by numbers learned per id; else they are summed as they are."""


class PQTable(MultiplexedTable):
    """Random product quantisation: chunks of a vector, each from a row of its own."""

    scheme: Literal["pq"]
    num_chunks: Annotated[int, Field(ge=2)] = 4
    """Chunks, side by side; they divide the width."""


class CCETable(MultiplexedTable):
    """Clustered compositional embeddings: chunks of a vector, each from a cluster and a hash."""

    scheme: Literal["cce"]
    num_chunks: Annotated[int, Field(ge=1)] = 4
    """Chunks, side by side; they divide the width."""
    cluster_every: Annotated[int, Field(ge=1)] = 1000
    """Steps of the optimiser from one clustering to the next."""
    num_clusterings: Annotated[int, Field(ge=0)] = 6
    """Clusterings in all; training should go on for a while after the last."""


class DPQTable(SizedTable):
    """Differentiable product quantisation: a bundle has codes of ids, and the values they pick.

    Its size is that of codes and values; in training there is a row for every id.
    """

    scheme: Literal["dpq"]
    num_parts: Annotated[int, Field(ge=1)] = 8
    """Parts of a vector, each with a code and values of its own; they divide the width."""
    mode: Literal["vq", "sx"] = "vq"
    """Whether a part picks the nearest value, or by the product with keys of the values."""
    commitment: Annotated[float, Field(ge=0)] = 0.25
    """How much rows are drawn to the values that they pick; of mode vq."""


class MGQETable(SizedTable):
    """Multi-granular quantised embeddings: as dpq, with fewer choices for rare ids."""

    scheme: Literal["mgqe"]
    num_parts: Annotated[int, Field(ge=1)] = 8
    """Parts of a vector, each with a code and values of its own; they divide the width."""
    commitment: Annotated[float, Field(ge=0)] = 0.25
    """How much rows are drawn to the values that they pick."""
    frequent_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of each feature's ids that have all choices, the most frequent; others a quarter."""


class QRTable(MultiplexedTable):
    """Quotient and remainder: the product of two rows, which tell all ids apart."""

    scheme: Literal["qr"]


class RobeTable(MultiplexedTable):
    """Windows on one array of numbers, each placed by a hash."""

    scheme: Literal["robe"]
    block: Annotated[int, Field(ge=1)] = 8
    """Numbers that lie side by side."""


class HashedNetTable(MultiplexedTable):
    """Every number of a vector is a number of one array, chosen by a hash."""

    scheme: Literal["hashednet"]


class TTTable(SizedTable):
    """Tensor train: the product of three small cores, chosen by the digits of an id."""

    scheme: Literal["tt"]


class DHETable(SizedTable):
    """Deep hash embedding: a network turns many hashes of an id into its vector."""

    scheme: Literal["dhe"]
    num_hashes: Annotated[int, Field(ge=1)] | None = None
    """Hashes of an id, the network's input. None: as many as the hidden layers are wide."""
    num_layers: Annotated[int, Field(ge=1)] = 5
    """Hidden layers; the budget gives their width."""
    seed: int = 0


class MixedDimTable(SizedTable):
    """Mixed dimensions: features with many ids have narrow rows, brought to the width."""

    scheme: Literal["mixed_dim"]


class QuantizedTable(TableBase):
    """A row for every id, trained and stored in numbers of few bits."""

    scheme: Literal["quantized"]
    bits: Literal[8, 16] = 8
    """Of a number, with its sign."""
    step: Literal["learned", "fixed"] = "learned"
    """Whether each row has a step of its own that is trained, or the table has one."""
    step_size: Annotated[float, Field(gt=0)] = 0.01
    """Numbers are whole multiples of it; where steps are learned, at the start."""


class DedupTable(StagedTable, SizedTable):
    """A row for every id; then blocks of rows are merged where they are alike."""

    scheme: Literal["dedup"]
    block_rows: Annotated[int, Field(ge=1)] = 1
    """Rows of a block."""
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    """Numbers that differ by no more are alike."""
    similar_share: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Share of a block's numbers that are to be alike; nearest blocks follow where it is not."""
    seed: int = 0


class MergedTable(PlannedTable):
    """Blocks of rows, some of which stand for others by a plan."""

    scheme: Literal["merged"]


class DeepLightTable(SizedTable):
    """A row for every id, of which training prunes the numbers of smallest magnitude."""

    scheme: Literal["deeplight"]
    damping_steps: Annotated[float, Field(gt=0)] = 100
    """Steps in which what is still to be pruned falls by 1%."""


class PepTable(StagedTable, SizedTable):
    """Prunes numbers below thresholds that are trained with them; then what is left is trained."""

    scheme: Literal["pep"]
    per: Literal["table", "feature", "dimension", "feature_and_dimension"] = "feature_and_dimension"
    """Numbers that have a threshold in common."""
    start: float = -15.0
    """Thresholds are the logistic function of numbers that start here."""
    decay: Annotated[float, Field(ge=0)] = 1e-5
    """Weight decay of these numbers, which lets the thresholds grow."""


class AutoSrhTable(StagedTable, SizedTable):
    """Prunes dimensions of ids of like frequency, by factors that are trained with them."""

    scheme: Literal["autosrh"]
    num_groups: Annotated[int, Field(ge=1)] = 6
    """Groups of a feature's ids."""
    l1: Annotated[float, Field(ge=0)] = 1e-5
    """Weight of the factors' sum in the loss."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """How far a step moves all factors of the table together."""


class MaskedTable(PlannedTable):
    """A row for every id, of which a plan keeps some numbers; the others are zero."""

    scheme: Literal["masked"]


class OptEmbedTable(StagedTable):
    """A row for every id, of which a search keeps those of use, each feature's in its own width."""

    scheme: Literal["optembed"]
    threshold_lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of the norms above which rows are kept, one for each feature."""
    alpha: Annotated[float, Field(ge=0)] = 1e-5
    """Weight of exp(-threshold) in the loss: how much thresholds are pushed up."""


class PrunedTable(PlannedTable):
    """Rows of some ids alone, each feature's in a width of its own; other ids read zeros."""

    scheme: Literal["pruned"]


StoredTable = Annotated[
    FullTable
    | HashTable
    | UnifiedTable
    | MultihashTable
    | PQTable
    | CCETable
    | DPQTable
    | MGQETable
    | QRTable
    | RobeTable
    | HashedNetTable
    | TTTable
    | DHETable
    | MixedDimTable
    | QuantizedTable
    | DedupTable
    | MergedTable
    | DeepLightTable
    | PepTable
    | AutoSrhTable
    | MaskedTable
    | OptEmbedTable
    | PrunedTable,
    Field(discriminator="scheme"),
]

Role = Literal["attention", "representation"]
ROLES: tuple[Role, ...] = get_args(Role)


class DecoupledTable(TableBase):
    """Two tables: one to find the earlier events that matter, one to say what they mean."""

    scheme: Literal["decoupled"]
    attention: StoredTable = FullTable()
    """What earlier events are searched and weighted by."""
    representation: StoredTable = FullTable()
    """What the found events and the target are described by."""
    separate_target: bool = False
    """Whether the target has two tables of its own, apart from those of the history."""

    @model_validator(mode="after")
    def _roles_in_one_training(self) -> DecoupledTable:
        for role in ROLES:
            table = self.role(role)
            if isinstance(table, StagedTable | PlannedTable):
                raise ValueError(
                    f"{role}: must be a table of one training without a plan, got {table.scheme}"
                )
            if table.renamed_from is not None:
                raise ValueError(
                    f"{role}: a role has no name of its own, got renamed_from; write it beside "
                    f"`scheme: decoupled`"
                )
        return self

    def role(self, role: Role) -> StoredTable:
        """The table of a role."""
        return self.attention if role == "attention" else self.representation


Table = Annotated[StoredTable | DecoupledTable, Field(discriminator="scheme")]


def stored_tables(name: str, table: Table) -> dict[str, StoredTable]:
    """What is stored under a name of the feature file: the table itself, or one for each role."""
    if isinstance(table, DecoupledTable):
        return {role_key(name, role): table.role(role) for role in ROLES}
    return {name: table}


def role_key(key: str, role: Role) -> str:
    """The name of a role's table, and the key of what is read from it; no feature has an @.

    Args:
        key: Name of the table, or key of the ids.
        role: Of a decoupled table.
    """
    return f"{key}@{role}"
