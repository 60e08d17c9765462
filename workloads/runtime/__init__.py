"""The edge between a job and whoever started it, and the edge to Ray."""
