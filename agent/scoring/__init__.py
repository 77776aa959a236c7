"""What two looks at a specimen have in common: ring correlation, halves of an acquisition, the score."""
