"""A hall in one file: written while it runs, read back before it counts, and put in place only when all of it is right."""
