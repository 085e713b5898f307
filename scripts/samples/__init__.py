"""What the checks decode and read: types, and texts at random."""
