"""The processes of a hall, each a module with `main()`; run as `python -m datahall.app.mains NAME`."""
