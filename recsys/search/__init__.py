"""Jobs of many trainings."""
