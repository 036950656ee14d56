"""Local `evaluate` metric: `evaluate.load("<package>/metrics/thai_cer")`. No hub."""
