"""The nouns: frozen dataclasses and protocols, no torch, no I/O."""
