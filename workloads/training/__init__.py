"""Models of the next move of the book: a vision transformer, its baselines, and the loop that trains it."""
