"""Checkpoints that nobody trained: every number in them is unlike all others."""

import string
from dataclasses import replace

import polars as pl
import torch

from features.load import parse_feature_set
from features.schema import FeatureSchema, Moments, Vocabulary
from features.spec import Bucketized, Categorical, Dense, VocabEncoding
from recsys.checkpoint import DENSE, FUSED, MODEL, Manifest, write_checkpoint
from recsys.tables.stores import table_names
from recsys.trained import unbuilt_task

HEAD = """
sources: {events: events.parquet}
label: {name: click}
"""


def config(
    *,
    dense_max_bytes=0,
    optimizer="adagrad",
    ranker="DCNv2",
    settings=None,
    dense="Adam",
    row_dtype="fp32",
):
    """As `train.py` writes it."""
    return {
        "seed_everything": 0,
        "model": {
            "class_path": "RankingTask",
            "init_args": {
                "ranker": {"class_path": ranker, "init_args": settings or {"mlp": [4]}},
                "optimizer": {"class_path": f"torch.optim.{dense}", "init_args": {"lr": 0.01}},
                "tables": {
                    "dense_max_bytes": dense_max_bytes,
                    "optimizer": {"name": optimizer},
                    "row_dtype": row_dtype,
                },
            },
        },
    }


def schema(text, values=None):
    """The schema of a feature file, with some values for its vocabularies.

    Args:
        text: Of the file, without what every file needs.
        values: By feature; letters where they are left out.
    """
    feature_set = parse_feature_set(HEAD + text, name="features.yaml")
    vocabularies = {}
    for feature in feature_set.of_kind(Categorical):
        if feature.like is None and isinstance(feature.encoding, VocabEncoding):
            known = list((values or {}).get(feature.name, string.ascii_lowercase[:9]))
            counts = range(2 * len(known), len(known), -1)
            vocabularies[feature.name] = Vocabulary(
                pl.Series(known, dtype=pl.String), pl.Series(counts, dtype=pl.Int64)
            )
    return FeatureSchema(
        feature_set=feature_set,
        vocabularies=vocabularies,
        boundaries={f.name: f.boundaries for f in feature_set.of_kind(Bucketized)},
        moments={f.name: Moments(0.0, 1.0, 0.0) for f in feature_set.of_kind(Dense)},
    )


def write_made(directory, of, *, seed=0, **settings):
    """Write a checkpoint of a schema; gives all its tensors."""
    manifest = Manifest(5, 1, 2, of.fingerprint(), config=config(**settings))
    task = unbuilt_task(directory, manifest)
    task.build(of)
    generator = torch.Generator().manual_seed(seed)

    def draw(like):
        return torch.randn(like.shape, generator=generator)

    tensors = {}
    sharded = {v: k for k, v in table_names(task.state_dict()).items() if "collection" in v}
    parameters = dict(task.named_parameters())
    for name, value in task.state_dict().items():
        is_number = value.is_floating_point()
        tensors[MODEL + name] = draw(value).to(value.dtype) if is_number else value.clone()
        optimizer = task.tables_config.optimizer.name
        if name in sharded and optimizer != "sgd":
            is_by_row = optimizer == "rowwise_adagrad"
            state = draw(value)[:, 0].contiguous() if is_by_row else draw(value)
            tensors[f"{FUSED}{name}.{sharded[name]}.momentum1"] = state
        elif name in parameters and name not in sharded:
            tensors[f"{DENSE}{name}.step"] = torch.tensor(5.0)
            tensors[f"{DENSE}{name}.exp_avg"] = draw(value)
            tensors[f"{DENSE}{name}.exp_avg_sq"] = draw(value).square()
    write_checkpoint(
        directory,
        tensors=tensors,
        trainer={"epoch": 1, "global_step": 5, "callbacks": {}, "loops": {}},
        manifest=replace(
            manifest, tables=task.table_sizes(), row_meanings=task.embedder.row_meanings()
        ),
        schema=of,
    )
    return tensors
