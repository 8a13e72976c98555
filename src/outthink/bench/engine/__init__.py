"""Our engine beside others, in one run: the same weights, prompts and lengths, each runner in its own process."""
