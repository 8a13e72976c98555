"""Strategies, models and verifiers at equal budgets on fresh problems, from per-problem records."""
