"""`python -m adastate` is the command `adastate`."""

from adastate.main import main

main()
