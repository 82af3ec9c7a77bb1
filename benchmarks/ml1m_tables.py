"""Quality of three ways to store the tables of a click model: MovieLens-1M, DCNv2.

    python benchmarks/ml1m_tables.py [--seeds 0 1 2] [--root runs] [--only VARIANT ...] [--report]

One shared table and a hashed table per feature at three budgets, and a row per value. A seed draws
the split of the ratings, the hashes of the shared table and what training draws. RECSYS_DATA names
the folder that has `ml-1m`.
"""

from pathlib import Path

import yaml
from seeds import main

from features.yaml_tree import parse_yaml

_REPOSITORY = Path(__file__).resolve().parent.parent
_ROWS = {"1.6MB": 13_653, "791kB": 6_592, "158kB": 1_317}
_PUBLISHED = {
    "collisionless": ".8872 / .8985",
    "unified_1.6MB": ".8774 / .8872",
    "unified_791kB": ".8693 / .8759",
    "unified_158kB": ".8200 / .8263",
    "separate_1.6MB": ".8537 / .8684",
    "separate_791kB": ".8300 / .8407",
    "separate_158kB": ".7707 / .7712",
}
EXPERIMENTS = {
    name: f"configs/experiment/ml1m_dcnv2_{name.partition('_')[0]}.yaml" for name in _PUBLISHED
}


def feature_file(variant: str, seed: int) -> str:
    """That of the experiment, with the variant's rows; split and hashes are drawn by the seed."""
    form, _, size = variant.partition("_")
    file = _REPOSITORY / f"configs/features/ml1m_{form}.yaml"
    content = parse_yaml(file.read_text(), name=file.name).value
    content["split"]["seed"] = seed
    table = content["tables"]["shared"]
    if size:
        table["rows"] = _ROWS[size]
    if form == "unified":
        table["seed"] = seed
    return yaml.safe_dump(content)


if __name__ == "__main__":
    main(
        experiments=EXPERIMENTS,
        metrics={"AUC": "auc/liked", "logloss": "logloss/liked"},
        about=__doc__.splitlines()[0],
        published=_PUBLISHED,
        feature_file=feature_file,
    )
