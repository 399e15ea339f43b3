"""LEDs and buzzers: patterns (pure) and outputs on gpiozero."""
