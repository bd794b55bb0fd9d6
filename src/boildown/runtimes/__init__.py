"""Runtimes by name."""
