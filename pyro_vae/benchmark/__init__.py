"""Measures how fast this library and its peers are on this machine: `python -m pyro_vae.benchmark`.

A contender (`contenders.py`) is a module with `works(**options)`: for each of the works it does (`works.py`) a function
that sets it up on data x and returns what to time. Each runs in a separate process (`worker.py`), one at a time.
"""
