"""Real worker processes that are killed, stopped, starved and cut off at every step of what they do."""
