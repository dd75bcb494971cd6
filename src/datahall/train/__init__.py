"""Fits candidates: search, seeds, and models that are never pickles."""
