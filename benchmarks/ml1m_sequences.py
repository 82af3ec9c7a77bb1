"""Quality of the sequence models: MovieLens-1M, next item, the whole catalogue ranked.

    python benchmarks/ml1m_sequences.py [--seeds 0 1 2] [--root runs] [--report]

RECSYS_DATA names the folder that has `ml-1m`.
"""

from seeds import main

EXPERIMENTS = {name: f"configs/experiment/ml1m_{name}.yaml" for name in ("sasrec", "bert4rec")}

if __name__ == "__main__":
    main(
        experiments=EXPERIMENTS,
        metrics={
            "HR@10": "hr@10",
            "NDCG@10": "ndcg@10",
            "MRR@10": "mrr@10",
            "coverage@10": "coverage@10",
        },
        about=__doc__.splitlines()[0],
    )
