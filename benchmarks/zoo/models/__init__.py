"""The architectures, a file for each kind; importing one registers its networks."""
