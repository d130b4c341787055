"""Daemons: kept running, replaced, adopted, never doubled."""
