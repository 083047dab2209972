"""What a tool chain really honours, and profiles written from it."""
