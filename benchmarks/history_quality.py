"""Quality of models that attend to a history of 200 movies: MovieLens-1M, split by days.

    python benchmarks/ml1m_days.py --out $RECSYS_DATA/ml-1m-days
    python benchmarks/history_quality.py [--seeds 0 1 2] [--root runs] [--report]

DCNv2 has no history, and shows what the rest of the fields tell. Published figures are those of
ReChorus, whose histories have 20 movies.
"""

from seeds import main

EXPERIMENTS = {
    "DARE": "configs/experiment/ml1m_dare.yaml",
    "TWIN": "configs/experiment/ml1m_twin.yaml",
    "DIN": "configs/experiment/ml1m_din.yaml",
    "DCNv2": "configs/experiment/ml1m_dcnv2_days.yaml",
}

if __name__ == "__main__":
    main(
        experiments=EXPERIMENTS,
        metrics={"AUC": "auc/liked", "logloss": "logloss/liked"},
        published={"DIN": ".7904", "DCNv2": ".7870"},
        about=__doc__.splitlines()[0],
    )
