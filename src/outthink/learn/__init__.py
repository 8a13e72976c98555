"""Training of the bundled models from scratch, on problems generated as training goes."""
