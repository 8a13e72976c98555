"""Number formats of weights: rounding, calibrated rounding, and the layouts that checkpoints store them in."""
