"""Several instruments, one facility: a queue of campaigns, and who runs them."""
