"""The control API over HTTP: every route declares the permission that it needs."""
