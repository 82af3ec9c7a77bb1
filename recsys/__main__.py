"""`python -m recsys VERB`: what is done beside training."""

from __future__ import annotations

import sys
from importlib import import_module

VERBS = {
    "doctor": ("recsys.doctor", "check the installation and the machine"),
    "init": ("recsys.init", "write a first feature file and run file from Parquet files"),
    "simulate": ("recsys.data.simulate", "write a click log whose true probabilities are known"),
    "plan": ("recsys.plan", "say whether the tables of a run fit, on hardware at hand or not"),
    "diff": ("recsys.diff", "say what an edit of a feature file keeps of what was learned"),
    "export": ("recsys.export", "turn a checkpoint into a bundle"),
    "export-search": ("recsys.export_search", "write what finds events in histories, by itself"),
    "score": ("recsys.score", "score raw Parquet with a bundle"),
    "retrieve": ("recsys.retrieve", "list the best items of every user, by a sequence bundle"),
    "fit-codes": ("recsys.fit_codes", "turn the vectors of a sequence bundle into short codes"),
    "compare-vectors": ("recsys.compare_vectors", "say what smaller vectors of a bundle miss"),
    "compatibility": ("recsys.compatibility", "say whether two bundles can share an index"),
    "compare-tables": ("recsys.search.compare", "train with tables stored in several ways"),
    "inspect-tables": ("recsys.search.inspect_tables", "say how well the tables of a run serve"),
    "propose-probes": ("recsys.search.propose_probes", "say which features should have more rows"),
    "inspect-roles": ("recsys.search.inspect_roles", "say what attention does to shared vectors"),
    "search-quality": ("recsys.search.search_quality", "say how well a run searches histories"),
    "search": ("recsys.search.search", "train tables in stages, and cut them down"),
    "migrate": ("recsys.migrate", "carry what a run has learned over to an edited feature file"),
    "refresh": ("recsys.refresh", "carry what a run has learned over to newer data"),
    "report": ("recsys.report", "metrics of scored Parquet"),
}


def main(arguments: list[str]) -> int:
    """Run one verb; gives the exit code."""
    if not arguments or arguments[0] not in VERBS:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
        stream = sys.stdout if asked_for_help else sys.stderr
        if arguments and not asked_for_help:
            print(f"recsys: no such verb, got {arguments[0]!r}; allowed:", file=stream)
        else:
            print("usage: python -m recsys VERB [-h] ...", file=stream)
        for verb, (_, purpose) in VERBS.items():
            print(f"  {verb:<15} {purpose}", file=stream)
        return 0 if asked_for_help else 2
    # Imported only now: scoring must not load the training code.
    module = import_module(VERBS[arguments[0]][0])
    return module.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
