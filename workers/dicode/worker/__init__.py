"""Runs: claim, execute, finish."""
