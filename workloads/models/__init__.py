"""Alpha, risk, transaction cost and portfolio: pure; the same code backtests and serves."""
