"""Layers: they know tensors, and nothing of features, tables or training."""
