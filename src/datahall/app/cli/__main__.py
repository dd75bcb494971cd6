"""Lets `python -m datahall.app.cli` be the command where no script is installed."""

from datahall.app.cli.main import main

main()
