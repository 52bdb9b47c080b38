"""Tools for any Pyro program: traces, densities, chunks of data, random numbers."""
