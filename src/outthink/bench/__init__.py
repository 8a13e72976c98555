"""Measuring: strategies on equal ground, from per-problem records, with intervals that are valid at their sample size."""
