"""`python -m latentmix` is the command line."""

from latentmix.cli import main

main()
