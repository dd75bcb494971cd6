"""Starting processes on this machine that hold only what they were given."""
