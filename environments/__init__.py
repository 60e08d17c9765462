"""The facts of a place, and of AWS that both halves need."""
