"""One file a kind of model: its settings, what a search may vary, and how it is built."""
