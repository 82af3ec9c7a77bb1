"""What an exported bundle is: a directory that scores raw Parquet without the training code.

manifest.json          task, labels, fingerprints, versions, what was measured, a hash of every file
schema/                the fitted feature schema
tables.safetensors     rows of all tables and parameters of their schemes
model.pt2              everything after the tables, as a torch.export program
search.pt2             of rankers that search histories: what finds the events that model.pt2 reads
model.onnx, search.onnx, model.aoti.pt2, search.aoti.pt2   the same programs, where asked for
card.md                the same for people
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from features.errors import SchemaMismatchError
from features.permissions import refused_by_name
from features.schema import FeatureSchema
from features.storage import load_schema

if TYPE_CHECKING:  # which needs torch
    from recsys.tables.few_bits import TableDType

FORMAT = 2
_READ_FORMATS = (1, FORMAT)  # 1: all tables have 32 bits, and what came later is not there
_LATER = {
    "unseen",
    "width",
    "prefix_widths",
    "model_fingerprint",
    "table_dtype",
    "source_run",
    "parity",
    "score_histogram",
    "compatible_with",
}
ITEM_BIAS = "item_bias"
"""Name, in `tables.safetensors`, of what is added to the score of each item of a sequence model."""
ITEM_MAP = "item_map"
"""Name there of a square matrix that vectors of items are multiplied with before they score."""
_MEND = "export again"
MODEL_KEY, DTYPE_KEY = "model_fingerprint", "table_dtype"  # what tables.safetensors says of itself
MANIFEST, SCHEMA, TABLES, MODEL, SEARCH, CARD = (
    "manifest.json",
    "schema",
    "tables.safetensors",
    "model.pt2",
    "search.pt2",
    "card.md",
)


@dataclass(frozen=True)
class BundleManifest:
    """What a bundle holds, readable without torch.

    Attributes:
        task: `ranking` gives a probability per label and event, `sequence` items per user.
        labels: Names of the probabilities.
        sequence: Key of the sequence that a sequence model reads.
        objective: How a sequence model was trained: `next` or `cloze`.
        max_length: Longest sequence that it reads.
        item_output: Whether a sequence model's items are scored by the vectors of histories or by
            a table of their own.
        width: Numbers of a sequence model's vectors of users and items. None: of other models, and
            of bundles of older versions.
        prefix_widths: Smaller widths at which the first numbers of these vectors were trained to
            serve alone; none of bundles of older versions.
        schema_fingerprint: Of the schema.
        step: Optimiser steps behind it.
        metrics: As logged by the checkpoint.
        versions: Of the libraries that wrote it.
        model_fingerprint: Of all trained numbers: the same for every bundle of a checkpoint, and
            part of `tables.safetensors`. None: a bundle of format 1.
        table_dtype: Of tables that are stored row for row.
        source_run: Name of the run.
        parity: How it compares with the model it was made of: see `recsys.exporting.parity`. None:
            it was not compared.
        unseen: Share of values without an id of their own in the compared rows, by feature with a
            vocabulary. None: not known, as of sequence models and of bundles of older versions.
        score_histogram: Of the compared rows, by label: `edges` of rising probability, and
            `counts` below the first, between each two, and from the last on. None: not known.
        compatible_with: The older bundle whose space a sequence model's vectors were turned into:
            `bundle`, its id; `num_items` of both, of `num_older_items`; `scale`, by which vectors
            of items were multiplied; and their mean `cosine` with the older ones. None: none.
        files: SHA-256 of every other file.
        format: Version of this layout.
    """

    task: Literal["ranking", "sequence"]
    labels: tuple[str, ...]
    schema_fingerprint: str
    step: int
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    sequence: str | None = None
    objective: Literal["next", "cloze"] | None = None
    max_length: int | None = None
    item_output: Literal["tied", "separate"] = "tied"
    width: int | None = None
    prefix_widths: tuple[int, ...] = ()
    model_fingerprint: str | None = None
    table_dtype: TableDType = "fp32"
    source_run: str | None = None
    parity: Mapping[str, Any] | None = None
    unseen: Mapping[str, float] | None = None
    score_histogram: Mapping[str, Mapping[str, Sequence[float]]] | None = None
    compatible_with: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


def write_manifest(bundle: Path, manifest: BundleManifest) -> None:
    """Hash every other file of a bundle and write its manifest."""
    files = {name: digest for name, digest in hashes(bundle).items() if name != MANIFEST}
    content: dict[str, Any] = {**asdict(manifest), "files": files}
    (bundle / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


@refused_by_name(SchemaMismatchError)
def read_bundle(bundle: Path) -> tuple[BundleManifest, FeatureSchema]:
    """Manifest and schema of a bundle whose files are whole.

    Raises:
        SchemaMismatchError: it is no bundle, of a newer layout, or a file is missing or changed.
    """
    file = bundle / MANIFEST
    if not file.is_file():
        raise SchemaMismatchError(
            f"{bundle}: is no bundle, got no {MANIFEST} in it; make one with "
            f"`python -m recsys export RUN --out BUNDLE`"
        )
    content = read_json(file)
    content.pop("training", None)  # which older versions wrote, and never filled
    if content.get("format") not in _READ_FORMATS:
        raise SchemaMismatchError(
            f"{file}: unknown format, got {content.get('format')}; allowed "
            f"{', '.join(map(str, _READ_FORMATS))}; read it with the version that wrote it: "
            f"{content.get('versions')}"
        )
    known = {f.name for f in fields(BundleManifest)}
    if not known - _LATER <= content.keys() <= known:
        raise SchemaMismatchError(f"{file}: is damaged, got keys {', '.join(content)}; {_MEND}")
    check_files(bundle, content["files"])
    tuples = {key: tuple(content.get(key, ())) for key in ("labels", "prefix_widths")}
    manifest = BundleManifest(**{**content, **tuples})
    return manifest, load_schema(bundle / SCHEMA)


def bundle_id(bundle: Path) -> str:
    """Sixteen hexadecimal digits that any other file in the bundle would change."""
    return sha256(bundle / MANIFEST)[:16]  # which has the hash of every other file


def read_json(file: Path) -> dict[str, Any]:
    """A mapping.

    Raises:
        SchemaMismatchError: it is none.
    """
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise SchemaMismatchError(f"{file}: is damaged, got no JSON ({error}); {_MEND}") from None
    if not isinstance(content, dict):
        raise SchemaMismatchError(f"{file}: is damaged, got no mapping; {_MEND}")
    return content


def hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the directory."""
    found = sorted(f for f in directory.rglob("*") if f.is_file())
    return {f.relative_to(directory).as_posix(): sha256(f) for f in found}


def check_files(directory: Path, files: Mapping[str, str]) -> None:
    """Refuse files that are not those of `hashes`.

    Raises:
        SchemaMismatchError: a file is missing or changed.
    """
    mistakes = [
        f"{directory / name}: is not the file that was exported, got {found}; {_MEND}"
        for name, digest in files.items()
        if (found := _found(directory / name, digest)) is not None
    ]
    if mistakes:
        raise SchemaMismatchError(mistakes)


def sha256(file: Path) -> str:
    """Digest of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _found(file: Path, digest: str) -> str | None:
    if not file.is_file():
        return "none"
    if sha256(file) == digest:
        return None
    return _whose_tables(file) if file.name == TABLES else "other bytes"


def _whose_tables(file: Path) -> str:
    """What tables that are not those of the bundle say of themselves."""
    try:
        with safe_open(file, framework="numpy") as tables:
            said = tables.metadata() or {}
    except SafetensorError:
        said = {}
    if MODEL_KEY not in said:
        return "other bytes"
    return f"{said.get(DTYPE_KEY)} tables of a bundle of model {said[MODEL_KEY][:12]}"
