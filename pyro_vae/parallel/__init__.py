"""Training in several processes: how they were launched, and how they exchange results."""
