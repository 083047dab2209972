"""A run as one HTML page: what is in its folder, read, judged in a sentence, drawn and written."""
