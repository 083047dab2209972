"""One module per subcommand of ``depth-distill``."""
