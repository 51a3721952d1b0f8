"""How well predicted parameters classify."""
