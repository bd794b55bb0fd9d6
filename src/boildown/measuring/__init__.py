"""Measuring: quality, latency, memory and size, each with how far it can be trusted. No torch here."""
