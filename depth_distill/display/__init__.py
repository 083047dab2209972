"""What people look at: tables for the terminal, charts and pictures."""
