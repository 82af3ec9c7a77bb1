"""What a checkpoint has learned, carried over to an edited feature file."""
