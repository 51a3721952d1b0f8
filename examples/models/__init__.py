"""Well-known models as people write them in Flax; nothing in them knows of ghn_jax."""
