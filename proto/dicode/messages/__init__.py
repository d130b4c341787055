"""The words all roles share: frozen msgspec structs, nothing else."""
