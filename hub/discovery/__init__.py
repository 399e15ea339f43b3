"""How the hub finds agents and targets."""
