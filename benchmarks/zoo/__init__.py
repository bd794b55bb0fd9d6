"""Does it hold for the models people have? Every method on many architectures, each cell checked; see README.md."""
