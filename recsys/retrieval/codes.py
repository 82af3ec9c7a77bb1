"""Codes that lie beside a bundle: where, and how they are made of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from features.errors import OutputError, RunConfigError
from recsys.bundle import bundle_id
from recsys.codes import codebook
from recsys.codes.codebook import Codebook
from recsys.codes.fitting import BITS_PER_NUMBER, HARD, PLACES, fit_binariser
from recsys.data.store import EncodedStore
from recsys.nearest.exact import Candidates, best_items
from recsys.scoring.scorer import Scorer
from recsys.scoring.users import of_each_user

STEP_OF_BITS = 8 * BITS_PER_NUMBER
_FITTED_ON = 20_000  # users
_MEASURED = 1_000
_MEASURED_SHARE = 6  # one user in so many at most


def default_bits(width: int) -> int:
    """Of codes of a sixteenth of the bytes of vectors of so many numbers, or the shortest."""
    return max(1, 32 * width // 16 // STEP_OF_BITS) * STEP_OF_BITS


def check_bits(bits: int, *, width: int) -> None:
    """Refuse a number of bits that no code has.

    Args:
        bits: Of a code.
        width: Numbers of a vector.

    Raises:
        RunConfigError: it is no multiple of 16, or more than the vectors themselves have.
    """
    most = max(STEP_OF_BITS, 32 * width // STEP_OF_BITS * STEP_OF_BITS)
    if bits % STEP_OF_BITS or not STEP_OF_BITS <= bits <= most:
        raise RunConfigError(
            f"--bits: is no length of a code, got {bits}; allowed multiples of {STEP_OF_BITS} from "
            f"{STEP_OF_BITS} to {most}, of which the vectors have {32 * width}"
        )


def codes_file(bundle: Path, *, bits: int) -> Path:
    """Where codes of a bundle lie; those of another bundle have another name."""
    bundle = bundle.absolute()  # which has a name where it is "."
    return bundle.with_name(f"{bundle.name}.codes-{bits}-{bundle_id(bundle)[:12]}.safetensors")


def check_writable(file: Path) -> None:
    """Refuse a folder that codes cannot be saved in, before anything takes time.

    Raises:
        OutputError: it cannot be written.
    """
    if not os.access(file.parent, os.W_OK):
        raise OutputError(
            f"{file}: cannot be written, got a folder without that right; let the folder be "
            f"written, or copy the bundle to another"
        )


def load_codes(bundle: Path, *, bits: int | None, scorer: Scorer) -> tuple[Codebook, Path]:
    """The codes that were fitted for a bundle, and their file.

    Args:
        bundle: Its directory.
        bits: Of a code. None: the only codes there are.
        scorer: The bundle.

    Raises:
        RunConfigError: there are none, or several of which none is named.
        SchemaMismatchError: the file is damaged.
    """
    found = _fitted(bundle)
    if bits is None and len(found) == 1:
        [bits] = found
    if bits is None and found:
        raise RunConfigError(
            f"--index codes: there are several beside {bundle}, got none named; allowed "
            f"{', '.join(f'--bits {one}' for one in found)}"
        )
    if bits not in found:
        wanted = "codes" if bits is None else f"codes of {bits} bits"
        there = ", ".join(f"--bits {one}" for one in found) or "none"
        more = "" if bits is None else f" --bits {bits}"
        raise RunConfigError(
            f"--index codes: there are no {wanted} of {bundle} as it is now, got {there} beside "
            f"it; run `python -m recsys fit-codes {bundle} DATA{more}`"
        )
    file = found[bits]
    num_items, width = scorer.item_vectors_VD.shape
    codes = codebook.load(file, bundle=bundle_id(bundle), num_items=num_items, width=width)
    return codes, file


def _fitted(bundle: Path) -> dict[int, Path]:
    """Files of codes of a bundle by their bits, fewest first."""
    bundle = bundle.absolute()
    prefix, suffix = f"{bundle.name}.codes-", f"-{bundle_id(bundle)[:12]}.safetensors"
    found = {}
    for file in bundle.parent.iterdir():
        bits = file.name.removeprefix(prefix).removesuffix(suffix)
        if file.name == f"{prefix}{bits}{suffix}" and bits.isdecimal():
            found[int(bits)] = file
    return dict(sorted(found.items()))


def split_users(num_users: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """History rows to fit codes on, and others, at equal distances, to measure them on.

    A single user is both.
    """
    rows = np.arange(num_users)
    count = min(_MEASURED, num_users // _MEASURED_SHARE)
    measured = rows[np.linspace(0, num_users - 1, max(count, 1)).astype(np.int64)]
    fitted = np.setdiff1d(rows, measured)
    if not len(fitted):
        return rows, rows
    spread = np.linspace(0, len(fitted) - 1, min(_FITTED_ON, len(fitted))).astype(np.int64)
    return fitted[spread], measured


def fit_codes(
    scorer: Scorer, store: EncodedStore, *, users: NDArray[np.int64], bits: int
) -> Codebook:
    """Codes of a bundle, fitted on the vectors of its items and of some users.

    Args:
        scorer: A sequence bundle.
        store: Has the histories.
        users: History rows.
        bits: Of a code.

    Raises:
        DataError: a vector is not finite.
    """
    groups = of_each_user(
        scorer,
        store,
        users,
        find=lambda group: group.vectors_BD,
        num_threads=torch.get_num_threads(),
    )
    users_UD = torch.cat([vectors_BD for _, vectors_BD in groups])
    items = Candidates.of(scorer.item_vectors_VD)
    parts = [best_items(part, items, k=HARD * PLACES) for part in users_UD.split(256)]
    lists_UH = items.place_V[torch.cat([best.ids_BK for best in parts])]
    binariser = fit_binariser(users_UD, items.vectors_CD, lists_UH=lists_UH, bits=bits)
    return Codebook.of(binariser, scorer.item_vectors_VD)
