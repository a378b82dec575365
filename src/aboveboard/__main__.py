"""`python -m aboveboard`: the same as the command `aboveboard`."""

from aboveboard.cli import main

main()
