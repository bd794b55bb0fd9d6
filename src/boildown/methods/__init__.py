"""The methods: one file each, read top to bottom as its card."""
