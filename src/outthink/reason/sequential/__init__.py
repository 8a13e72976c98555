"""Strategies that go over one line again, or have two models write it: revision, evolution, speculation, forcing."""
