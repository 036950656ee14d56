"""Local `evaluate` metric: `evaluate.load("<package>/metrics/keyword_hits")`. No hub."""
