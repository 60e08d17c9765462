"""The stages of the main job, in the order in which they run."""

STAGES = ("ticks", "features", "training", "backtest")
"""``ticks`` is the exchange and ingest; the others are Ray jobs on what it stored."""
