"""What boildown achieves and what it costs, measured; see README.md."""
