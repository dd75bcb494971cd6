"""Turns a fitted model into the artifact that serves, and proves that it answers alike."""
