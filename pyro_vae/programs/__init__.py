"""What is done with any Pyro program: traces, densities, chunks of data, random numbers."""
