"""Versions with traffic: what may be routed, and the table that gateways follow."""
