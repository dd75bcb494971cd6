"""What people and machines touch: commands, HTTP, processes, and the wiring between packages."""
