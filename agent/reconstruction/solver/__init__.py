"""From counts to the most likely object: passes, steps, priors, when to stop."""
