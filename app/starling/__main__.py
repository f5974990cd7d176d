"""`python -m starling`: the command `starling`, where no script of that name is on the path."""

from starling.cli.entry import main

main()
