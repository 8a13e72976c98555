"""Search beside others: branches in one engine or as whole completions, particles of tokens, the cost of a node."""
