"""`python -m graphcnf` is the `graphcnf` command."""

from graphcnf.scripts.cli import main

main()
