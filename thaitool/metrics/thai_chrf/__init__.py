"""Local `evaluate` metric: `evaluate.load("<package>/metrics/thai_chrf")`. No hub."""
