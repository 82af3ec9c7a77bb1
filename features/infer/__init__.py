"""A first feature file from Parquet: guesses, each of which says that it is one."""
