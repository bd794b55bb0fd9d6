"""Benchmarks on trained networks that the project did not train, with the data they are judged on."""
