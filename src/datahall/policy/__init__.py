"""Pure decisions: what should happen next, from what is known now; live and simulated halls call the same."""
