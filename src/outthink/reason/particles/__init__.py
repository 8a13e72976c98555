"""Sequential Monte Carlo over steps and over tokens: filters, particle Gibbs, tempering, twists, evidence."""
