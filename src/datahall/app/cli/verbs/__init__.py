"""One module a verb; each has a Typer called `command`."""
