"""Repositories: fetched over the network in limited children, read from the object database, never checked out."""
