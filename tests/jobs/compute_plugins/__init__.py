"""Computations that misbehave, for the tests of the compute child."""
