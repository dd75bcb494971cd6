"""Where the catalogue and the ledger are kept."""
