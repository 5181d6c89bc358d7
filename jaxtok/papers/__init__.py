"""What single systems add, one file each."""
