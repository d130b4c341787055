"""How every role lives: keeper, settings, signals, logs, the mirror of the store, the keyed queue, blobs, children."""
