"""Predicting all parameters of a network, and saying how well that may go."""
