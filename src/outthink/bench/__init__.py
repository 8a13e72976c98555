"""Measuring strategies on equal ground, from per-problem records, with intervals valid at their sample size."""
