"""Registered → runs: cron, webhooks."""
