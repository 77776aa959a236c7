"""The page: what a campaign does now and has found, to be watched and steered from a browser."""
