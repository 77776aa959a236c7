"""Which settings to try next: `suggest` and `ingest`, and the policies behind them."""
