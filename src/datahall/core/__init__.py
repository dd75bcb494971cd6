"""The nouns and the small tools that every package shares; standard library and msgspec only."""
