"""Places outside a hall that remember its tree heads."""
