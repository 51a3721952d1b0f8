"""The console command `ghn-jax`: a module for every command."""
