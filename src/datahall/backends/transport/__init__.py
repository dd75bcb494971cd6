"""Ways to reach a replica, one file each."""
