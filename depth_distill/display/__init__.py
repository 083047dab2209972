"""Tables for the terminal, charts and pictures."""
