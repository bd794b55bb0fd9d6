"""Real runs killed at random instants and resumed: nothing is lost or corrupted, and the end is the same."""
