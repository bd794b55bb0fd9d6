"""Conformance suites and a small real example, for boildown's own tests and for plug-in authors."""
