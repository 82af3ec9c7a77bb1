"""Composition root: `python train.py fit|validate|test -c configs/experiment/X.yaml`."""

import models  # noqa: F401  so that a configuration can name them
from recsys.training.cli import main
from recsys.training.ranking import RankingTask  # noqa: F401
from recsys.training.sequence import SequenceTask  # noqa: F401

if __name__ == "__main__":
    main()
