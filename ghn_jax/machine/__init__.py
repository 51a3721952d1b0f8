"""One compiled program that runs any network: instructions are data, primitives a finite table of signatures.

`table.py` says which operations a machine knows, `assemble.py` turns a program into index arrays, `memory.py` decides
where activations lie, `parameters.py` where parameters come from, `operations.py` what one instruction does, and
`run.py` runs them all.
"""
