"""Several processes at work on one run: who launched them, and how they share results."""
