"""The forward model: what counts are expected of an object, a probe and a detector, and what it starts from."""
