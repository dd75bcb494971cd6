"""`make bench-serve`: the gateway's speed beside other servers of models and beside bare echoes, on one machine."""
