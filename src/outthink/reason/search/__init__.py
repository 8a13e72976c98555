"""Search over steps of reasoning, and over tokens: beams, best-first, Monte-Carlo trees."""
