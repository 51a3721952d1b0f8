"""Target networks: from an architecture to its program, a list of primitives, and to its graph."""
