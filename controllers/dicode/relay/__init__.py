"""Hooks for a machine behind NAT: it keeps a connection to a public one, which sends the calls it gets down that line."""
