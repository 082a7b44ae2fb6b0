"""`python -m reactor`, the same as the command `reactor`."""

from reactor.cli import main

main(prog_name="reactor")
