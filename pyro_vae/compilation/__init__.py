"""Pyro programs traced once into a graph that torch compiles."""
