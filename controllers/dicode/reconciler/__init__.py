"""Desired + actual → registered: admission, status, history."""
