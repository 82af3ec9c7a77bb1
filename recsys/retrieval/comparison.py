"""A whole job: what smaller forms of a bundle's item vectors miss, as a table and a picture.

U users · B users at once · K places.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from features.errors import RunConfigError
from recsys.bundle import bundle_id
from recsys.codes import codebook
from recsys.codes.codebook import Codebook
from recsys.data.scoring import encode_for_scoring
from recsys.data.store import EncodedStore
from recsys.nearest.exact import Candidates, best_items
from recsys.new_folder import check_out, new_folder
from recsys.retrieval.ann import recall
from recsys.retrieval.codes import (
    STEP_OF_BITS,
    check_bits,
    check_writable,
    codes_file,
    default_bits,
    fit_codes,
    load_codes,
    split_users,
)
from recsys.retrieval.forms import Form, forms
from recsys.retrieval.picture import draw
from recsys.retrieval.questions import Questions, questions
from recsys.retrieval.run import ENCODED, open_scorer, wanted_users
from recsys.scoring.scorer import Scorer

CSV, PNG = "results.csv", "results.png"
PLACES, FIRST_PLACES = 100, 10


@dataclass(frozen=True)
class Compared:
    """What came out.

    Attributes:
        rows: A row for each form: `family`, `vectors`, `bytes`, and `recall@100`, `ndcg@10` and
            `hr@100` of the form alone, and with its candidates scored by the full vectors.
        num_users: That were asked for their last item.
        fitted: Files of codes that were written.
    """

    rows: pl.DataFrame
    num_users: int
    fitted: tuple[Path, ...]


def compare(
    bundle: Path,
    data: Path,
    out: Path,
    *,
    bits: Sequence[int] | None = None,
    max_users: int = 10_000,
    say: Callable[[str], None] = lambda _: None,
) -> Compared:
    """Compare; the output appears under its name only when complete.

    Args:
        bundle: An exported sequence model.
        data: Folder with the files that the feature file names.
        out: Folder to make.
        bits: Of the codes to compare. None: those of 1/32, 1/16 and 1/8 of the vectors' bytes.
        max_users: Of more, some are asked, at equal distances.
        say: Is told what begins, as it may take minutes.

    Raises:
        DataError: the data is not what the bundle expects.
        OutputError: the output cannot be made, or nothing saved beside the bundle.
        RunConfigError: the output exists already, nobody is to be asked, or there are no codes of
            such a length.
        SchemaMismatchError: the bundle, or a file beside it, is not whole.
    """
    check_out(out)
    if max_users < 1:
        raise RunConfigError(
            f"--max-users: is no number of users, got {max_users}; allowed 1 and more"
        )
    scorer = open_scorer(bundle)
    width = scorer.item_vectors_VD.shape[1]
    bits = _three_lengths(width) if bits is None else sorted({*bits})
    for one in bits:
        check_bits(one, width=width)
    check_writable(codes_file(bundle, bits=bits[0]))
    with new_folder(out) as partial:
        store = encode_for_scoring(scorer.schema, data, partial / ENCODED)
        codes, fitted = _codes(bundle, scorer, store, bits=bits, say=say)
        items = Candidates.of(scorer.item_vectors_VD)
        say("exact lists")
        asked = [
            (group, best_items(group.vectors_BD, items, k=PLACES, seen=group.seen).ids_BK)
            for group in questions(scorer, store, max_users=max_users)
        ]
        compared = forms(bundle, scorer, items, codes=codes)
        rows = pl.DataFrame([_measured(form, asked, say=say) for form in compared])
        rows.write_csv(partial / CSV)
        draw(rows, file=partial / PNG)
        shutil.rmtree(partial / ENCODED)
    return Compared(rows, sum(len(group) for group, _ in asked), fitted)


def table_lines(rows: pl.DataFrame) -> list[str]:
    """The table in Markdown.

    Args:
        rows: Of `Compared`.
    """
    measures = [name for name in rows.columns if name not in ("family", "vectors", "bytes")]
    header = ["vectors", "bytes", *measures]
    lines = [
        [row["vectors"], f"{row['bytes']:.4g}", *(f"{row[name]:.4f}" for name in measures)]
        for row in rows.iter_rows(named=True)
    ]
    cells = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return [f"| {' | '.join(line)} |" for line in cells]


def _three_lengths(width: int) -> list[int]:
    middle = default_bits(width)
    half = max(STEP_OF_BITS, middle // 2 // STEP_OF_BITS * STEP_OF_BITS)
    return sorted({half, middle, min(2 * middle, 32 * width)})


def _codes(
    bundle: Path,
    scorer: Scorer,
    store: EncodedStore,
    *,
    bits: Sequence[int],
    say: Callable[[str], None],
) -> tuple[dict[int, Codebook], tuple[Path, ...]]:
    """Codes by their bits, those that were not there fitted and saved; and the new files."""
    num_users = len(wanted_users(scorer, store, path=None, warnings=[]))
    users, _ = split_users(num_users)
    found, new = {}, []
    for one in bits:
        file = codes_file(bundle, bits=one)
        if file.is_file():
            found[one], _ = load_codes(bundle, bits=one, scorer=scorer)
            continue
        say(f"fitting codes of {one} bits")
        found[one] = fit_codes(scorer, store, users=users, bits=one)
        codebook.save(found[one], file, bundle=bundle_id(bundle))
        new.append(file)
    return found, tuple(new)


def _measured(
    form: Form, asked: Sequence[tuple[Questions, Tensor]], *, say: Callable[[str], None]
) -> dict[str, object]:
    """A row of the table, from users and their exact lists."""
    say(f"lists by {form.name}")
    alone, rescored = [], []
    for group, exact_BK in asked:
        found_BK = form.search.first_step(group.vectors_BD, k=PLACES, seen=group.seen)
        alone.append(_of_lists(found_BK, exact_BK, targets_B=group.targets_B))
        found_BK = form.search.best_items(group.vectors_BD, k=PLACES, seen=group.seen).ids_BK
        rescored.append(_of_lists(found_BK, exact_BK, targets_B=group.targets_B))
    row: dict[str, object] = {
        "family": form.family,
        "vectors": form.name,
        "bytes": form.search.bytes_per_item,
    }
    for prefix, parts in (("", alone), ("rescored ", rescored)):
        means = torch.cat(parts).mean(dim=0).tolist()
        names = (f"recall@{PLACES}", f"ndcg@{FIRST_PLACES}", f"hr@{PLACES}")
        row |= {prefix + name: mean for name, mean in zip(names, means, strict=True)}
    return row


def _of_lists(found_BK: Tensor, exact_BK: Tensor, *, targets_B: Tensor) -> Tensor:
    """Recall against exact lists, NDCG of the first places, and whether the target is found."""
    is_target_BK = (found_BK == targets_B.unsqueeze(1)) & (targets_B > 0).unsqueeze(1)
    gains_K = 1 / (torch.arange(found_BK.shape[1]) + 2.0).log2()
    ndcg_B = (is_target_BK * gains_K)[:, :FIRST_PLACES].sum(dim=1)
    return torch.stack([recall(found_BK, exact_BK), ndcg_B, is_target_BK.any(1).float()], dim=1)
