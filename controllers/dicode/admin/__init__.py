"""The CLI: parse, ask, print; no decisions."""
