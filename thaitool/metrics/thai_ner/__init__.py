"""Local `evaluate` metric: `evaluate.load("<package>/metrics/thai_ner")`. No hub."""
