"""Measures how fast this library and its peers are on this machine: `python -m pyro_vae.benchmark`.

A contender (`contenders.py`) is a module with a function `works(**options)`. It returns a dict from the names of works
(`works.py`) to functions that set a work up on data x and return the function to time. Each contender runs in a
separate process (`worker.py`), one at a time.
"""
