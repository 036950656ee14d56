"""Local `evaluate` metric: `evaluate.load("<package>/metrics/thai_wer")`. No hub."""
