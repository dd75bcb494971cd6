"""The forms in which clients ask, one file each."""
