"""A causal simulation of trading, its ledger in currency, and the statistics of the result."""
