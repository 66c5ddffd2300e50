"""Which quantization fits this machine and this person, and why."""
