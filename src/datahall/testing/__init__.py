"""Contract suites that a backend must pass, and fakes that are real backends."""
