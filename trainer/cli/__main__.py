"""`python -m trainer.cli`: the same as `swift-submit`."""

from trainer.cli import main

main()
