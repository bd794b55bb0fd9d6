"""The engine: the ladder and its decisions, attempts, budget, diagnosis."""
