"""What a run needs, before anybody pays for it."""
