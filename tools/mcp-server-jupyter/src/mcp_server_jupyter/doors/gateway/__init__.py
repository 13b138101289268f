"""Notebooks as an API: `POST /run` and what belongs to it. Imports `runs`, and what doors share of `doors/http`."""
