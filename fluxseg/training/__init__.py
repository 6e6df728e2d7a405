"""State, steps and the loop that trains."""
