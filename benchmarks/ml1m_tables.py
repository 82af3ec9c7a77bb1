"""Quality of three ways to store the tables of a click model: MovieLens-1M, DCNv2.

    python benchmarks/ml1m_tables.py [--seeds 0 1 2] [--root runs] [--report]

One shared table, a row per id, and a hashed table per feature, the first and the last of equal
bytes. RECSYS_DATA names the folder that has `ml-1m`.
"""

from seeds import main

EXPERIMENTS = {
    name: f"configs/experiment/ml1m_dcnv2_{name}.yaml"
    for name in ("unified", "collisionless", "separate")
}

if __name__ == "__main__":
    main(
        experiments=EXPERIMENTS,
        metrics={"AUC": "auc/liked", "logloss": "logloss/liked"},
        about=__doc__.splitlines()[0],
    )
