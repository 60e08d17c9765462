"""The venue's side: the MDP 3.0 wire format in both directions, captures, and an exchange simulator."""
