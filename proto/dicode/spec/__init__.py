"""All that can be said about a task without a clock or a file. Pure."""
