"""From files to networks and data: parsing, errors of configs, runs."""
