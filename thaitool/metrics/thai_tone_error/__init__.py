"""Local `evaluate` metric: `evaluate.load("<package>/metrics/thai_tone_error")`. No hub."""
