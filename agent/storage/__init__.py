"""What is on disk: the journal, acquisition and reconstruction files."""
