"""Quality of the sequence models: next item, leave-one-out, the whole catalogue ranked.

    python benchmarks/sequence_quality.py [--seeds 0 1 2] [--root runs] [--report]

RECSYS_DATA names the folder that has `ml-1m` and `amazon-beauty`.
"""

from seeds import main

# Beside each variant the figure that was published for it, NDCG@10 (see README.md for sources).
PUBLISHED = {
    "ml1m_bert4rec": ".1516 - .1618",
    "ml1m_sasrec_bce": ".126 - .134",
    "ml1m_gsasrec": ".1726",
    "ml1m_gsasrec_timed": ".1726",
    "ml1m_sasrec": ".1821",
    "ml1m_sasrec_timed": ".1821",
    "ml1m_esasrec": ".1772",
    "ml1m_hstu": ".1880",
    "beauty_sasrec": ".0531",
}

EXPERIMENTS = {name: f"configs/experiment/{name}.yaml" for name in PUBLISHED}

if __name__ == "__main__":
    main(
        experiments=EXPERIMENTS,
        metrics={
            "HR@10": "hr@10",
            "NDCG@10": "ndcg@10",
            "coverage@10": "coverage@10",
        },
        about=__doc__.splitlines()[0],
        published=PUBLISHED,
    )
