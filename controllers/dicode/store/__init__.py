"""The store: the only one that touches the database, and the one that publishes what was committed."""
