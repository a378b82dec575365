"""`python -m aboveboard.cli`: the same as the command `aboveboard`."""

from aboveboard.cli import main

main()
