"""What `python -m features check` says of a feature file and its data, beside mistakes."""
