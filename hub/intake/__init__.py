"""How samples come into the hub."""
