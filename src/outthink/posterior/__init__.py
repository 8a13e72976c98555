"""Weighted populations: resampling, evidence, and potentials that a language model's law is multiplied by."""
