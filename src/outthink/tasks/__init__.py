"""Problems that can be checked exactly: families with a difficulty dial, gold steps, checkers and step oracles."""
