"""The engine: tables, training, checkpoints, export and scoring."""
