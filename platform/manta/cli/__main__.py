"""`python -m manta.cli`: the `manta` command without its script."""

from manta.cli import main

main()
