"""Running target networks: whole, as one XLA program, or operation by operation, as many networks as there are.

`whole.py` is for one network that runs many times.  `operations.py` runs any network forwards and backwards with one
small program for every operation, which `compiling.py` compiles, ahead of need and once for all networks.
"""
