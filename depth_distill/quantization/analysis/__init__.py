"""Where accuracy is lost: replay, sensitivity, error budget, mixed precision."""
