"""Versions, their numbers, their reports, and the way from an answer back to its origins."""
