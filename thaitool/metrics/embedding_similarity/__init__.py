"""Local `evaluate` metric: `evaluate.load("<package>/metrics/embedding_similarity")`. No hub."""
