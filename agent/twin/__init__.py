"""Simulated columns from which a campaign's prior is learned: how good is which picture, before the first electron."""
