"""The search of widths over a trained supernet, resumed after the last whole generation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from recsys.search.evolution import (
    Candidate,
    EvolutionConfig,
    Genes,
    first_population,
    generator,
    next_population,
    ranked,
)
from recsys.search.supernet import Supernet


class WidthSearch:
    """An evolution on disk: what is known after each generation.

    Args:
        supernet: Judges candidates.
        config: How to search.
        seed: Of what is drawn.
        file: JSON that is written after each generation, and gone on from.
    """

    def __init__(
        self, supernet: Supernet, config: EvolutionConfig, *, seed: int, file: Path
    ) -> None:
        self.supernet, self.config, self.seed, self.file = supernet, config, seed, file
        self.known: dict[Genes, Candidate] = {}
        self.generations: list[dict[str, Any]] = []
        if file.is_file():
            content = json.loads(file.read_text())
            self.generations = content["generations"]
            for genes, auc, size in content["known"]:
                self.known[tuple(genes)] = Candidate(tuple(genes), auc, size)

    def run(self) -> Candidate:
        """Try all generations that have not been, with a line for each; give the best candidate."""
        started_s, done_before = time.monotonic(), len(self.generations)
        most = self.supernet.most
        for number in range(done_before, self.config.generations):
            draws = generator(self.seed, number)
            if number == 0:
                population = first_population(most, self.config, draws)
            else:
                population = next_population(
                    self.known, most, self.config, draws, max_size=self.max_size
                )
            for genes in map(self.supernet.stored, population):
                if genes not in self.known:
                    self.known[genes] = self.supernet.candidate(genes)
            self._save()
            elapsed_s = time.monotonic() - started_s
            left = self.config.generations - number - 1
            left_s = elapsed_s / (number + 1 - done_before) * left
            eta = f"; {left_s:.0f} s left" if left else ""
            print(f"{self._line(number, self.best)}{eta}", flush=True)
        return self.best

    @property
    def best(self) -> Candidate:
        """Of all that were tried."""
        tolerance = self.config.tolerance
        return ranked(self.known.values(), tolerance=tolerance, max_size=self.max_size)[0]

    @property
    def max_size(self) -> float:
        """Numbers that the winner may have."""
        return self.config.max_share * self.supernet.full_size

    def widths(self, genes: Genes) -> dict[str, dict[str, int]]:
        """Width by table and feature."""
        found: dict[str, dict[str, int]] = {}
        for (table, feature), width in zip(self.supernet.features, genes, strict=True):
            found.setdefault(table, {})[feature] = width
        return found

    def _save(self) -> None:
        best = self.best
        self.generations.append(
            {"auc": best.auc, "size": best.size, "widths": self.widths(best.genes)}
        )
        content: Mapping[str, Any] = {
            "generations": self.generations,
            "known": [astuple(candidate) for candidate in self.known.values()],
        }
        unfinished = self.file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content) + "\n")
        unfinished.replace(self.file)

    def _line(self, number: int, best: Candidate) -> str:
        whole = self.known[tuple(self.supernet.most)]
        share = 1 - best.size / self.supernet.full_size
        return (
            f"generation {number + 1}/{self.config.generations}  best AUC {best.auc:.5f} "
            f"(full widths {whole.auc:.5f})  {share:.1%} of the numbers gone  "
            f"{len(self.known)} candidates"
        )
