"""What this machine is, and what of it may be used."""
