"""Weights of hypernetworks: saved, loaded, imported and shared."""
