"""What an edit of the feature file does to what was learned."""
