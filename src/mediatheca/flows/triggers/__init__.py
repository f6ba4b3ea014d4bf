"""What runs by the clock, by events and by conditions."""
