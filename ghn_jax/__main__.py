"""`python -m ghn_jax` is the console command `ghn-jax`."""

from ghn_jax.cli.main import main

if __name__ == "__main__":
    main()
