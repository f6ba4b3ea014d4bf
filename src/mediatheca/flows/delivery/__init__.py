"""Messages to the world: queued in the transaction of what they tell, delivered until they arrive."""
