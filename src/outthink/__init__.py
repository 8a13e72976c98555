"""Outthink: an inference engine in which thinking longer is a first-class workload."""

__version__ = "0.1.0"
