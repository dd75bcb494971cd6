"""Where encrypted objects lie: in memory, or in a folder."""
