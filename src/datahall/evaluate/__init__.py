"""One file a claim: measures a bundle on the holdout and signs what it saw."""
