"""Codes of all items of a bundle, and the binariser that its users' vectors go through: a file.

V items, the out-of-vocabulary id 0 included · Y bytes of a code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from features.errors import OutputError, SchemaMismatchError
from features.permissions import give_usual_mode
from recsys.codes.binariser import Binariser
from recsys.codes.packed import pack

_ITEMS, _SAYS = "items", "codes"
_BATCH = 65_536


@dataclass(frozen=True)
class Codebook:
    """What users and items are compared by.

    Attributes:
        binariser: Of vectors of both.
        items_VY: Packed codes of the catalogue.
    """

    binariser: Binariser
    items_VY: Tensor

    @classmethod
    def of(cls, binariser: Binariser, vectors_VD: Tensor) -> Codebook:
        """The codes of a catalogue."""
        parts = [encoded(binariser, part) for part in vectors_VD.split(_BATCH)]
        return cls(binariser, torch.cat(parts))

    @property
    def num_steps(self) -> int:
        """Bits of each number of a code."""
        return len(self.binariser.down)

    @property
    def bits(self) -> int:
        """Of a code."""
        return 8 * self.items_VY.shape[1]


@torch.no_grad()
def encoded(binariser: Binariser, vectors_ND: Tensor) -> Tensor:
    """Packed codes (N, Y)."""
    return pack(binariser(vectors_ND))


def save(codebook: Codebook, path: Path, *, bundle: str) -> None:
    """Write the file; it appears under its name when it is complete.

    Args:
        codebook: What to write.
        path: The file.
        bundle: What `bundle_id` gives of the bundle whose vectors it is of.

    Raises:
        OutputError: it cannot be written.
    """
    says = {
        "bundle": bundle,
        "width": codebook.binariser.width,
        "bits_per_step": codebook.bits // codebook.num_steps,
        "num_steps": codebook.num_steps,
    }
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")  # others may write it, too
    tensors = {_ITEMS: codebook.items_VY, **codebook.binariser.state_dict()}
    try:
        save_file(tensors, partial, metadata={_SAYS: json.dumps(says)})
        give_usual_mode(partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written, got {error}; make room, or let the folder be written"
        ) from None


def load(path: Path, *, bundle: str, num_items: int, width: int) -> Codebook:
    """Read the file.

    Args:
        path: Of `save`.
        bundle: What `bundle_id` gives of the bundle at hand.
        num_items: V.
        width: Numbers of its vectors.

    Raises:
        SchemaMismatchError: it is no such file, or is of other vectors.
    """
    mend = "delete it, and run `python -m recsys fit-codes` again"
    try:
        with safe_open(path, framework="pt") as opened:
            says: Mapping[str, Any] = json.loads((opened.metadata() or {})[_SAYS])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        items_VY = tensors.pop(_ITEMS)
        shape = {key: says[key] for key in ("width", "bits_per_step", "num_steps")}
        binariser = Binariser(**shape)
        binariser.load_state_dict(tensors)
        num_bytes = says["num_steps"] * says["bits_per_step"] // 8
        if items_VY.dtype != torch.uint8 or items_VY.shape[1:] != (num_bytes,):
            raise ValueError(f"codes of shape {[*items_VY.shape]}")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise SchemaMismatchError(
            f"{path}: holds no codes, got {str(error).splitlines()[0]}; {mend}"
        ) from None
    if says["bundle"] != bundle or len(items_VY) != num_items or binariser.width != width:
        raise SchemaMismatchError(
            f"{path}: is of other vectors, got those of bundle {says['bundle']}; allowed {bundle}; "
            f"{mend}"
        )
    return Codebook(binariser.eval(), items_VY)
