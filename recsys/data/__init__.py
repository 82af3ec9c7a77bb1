"""From raw Parquet to the batches of a rank."""
