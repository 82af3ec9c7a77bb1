"""Two generations of sequence models on one log, for tests of upgrades."""

import json

import torch
from bundles import train
from safetensors.torch import load_file, save_file
from test_score_sequences import SEQUENCE

from recsys.bundle import ITEM_MAP, MANIFEST, TABLES, read_bundle, write_manifest

OLD = SEQUENCE.replace(
    "{name: item_id, kind: categorical}",
    "{name: item_id, kind: categorical, encoding: {min_count: 14}}",
)


def two_generations(directory):
    """`old` knows only frequent items; `new` knows all; both train the same encoders."""
    train(directory / "old", ["BERT4Rec", "SASRec"], features=OLD)  # the first has a bias of items
    train(directory / "new", ["BERT4Rec", "SASRec"], features=SEQUENCE)
    return directory


def bundle_of(directory, generation, name="BERT4Rec"):
    return directory / generation / "bundles" / name


def edit_manifest(bundle, **content):
    file = bundle / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | content))


def turn(bundle, matrix_DD):
    """Make the items of a bundle lie elsewhere; its users stay where they are."""
    tensors = load_file(bundle / TABLES)
    save_file({**tensors, ITEM_MAP: matrix_DD.contiguous()}, bundle / TABLES)
    manifest, _ = read_manifest_only(bundle)
    write_manifest(bundle, manifest)


def read_manifest_only(bundle):
    """As `read_bundle`, though a file was changed."""
    edit_manifest(bundle, files={})
    return read_bundle(bundle)


def random_rotation(width, *, seed):
    generator = torch.Generator().manual_seed(seed)
    square_DD = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square_DD)[0]
