"""A run folder of somebody else, with links, pipes and endless files in it: no command hangs, or touches what lies elsewhere."""
