"""How fast this library is beside its peers, on the machine at hand: `python -m pyro_vae.benchmark`.

A contender (`contenders.py`) is a module with `works(**options)`: for each of the works it does (`works.py`) a function
that sets it up on data x and returns what to time. Each runs in a process of its own (`worker.py`), one at a time.
"""
