"""Metrics of validation and test, as torchmetrics that add up over batches and ranks."""

from recsys.metrics.ranking import RankingMetrics as RankingMetrics
from recsys.metrics.retrieval import CatalogueMetrics as CatalogueMetrics
from recsys.metrics.retrieval import rank_targets as rank_targets
from recsys.metrics.retrieval import remove_seen as remove_seen
from recsys.metrics.retrieval import top_k as top_k

__all__ = ["CatalogueMetrics", "RankingMetrics", "rank_targets", "remove_seen", "top_k"]
