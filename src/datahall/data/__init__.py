"""Sources become immutable snapshots: read, checked against the contract, split, stored."""
