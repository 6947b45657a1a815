"""`python -m registry` is `tagwarden`."""

from registry.cli import main

main(prog_name="tagwarden")
