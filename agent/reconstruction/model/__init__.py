"""The forward model: what the counts are expected to be, and what it starts from."""
