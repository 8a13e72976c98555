"""Reward models: step labels from the model's own rollouts, training on them, and judging against the step oracle."""
