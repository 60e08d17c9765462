"""What models see: cleaned ticks as bars, order flow and book tensors; and labels, kept apart."""
