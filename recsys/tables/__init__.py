"""Logical tables of the feature file -> physical TorchRec tables, and their lookup."""
