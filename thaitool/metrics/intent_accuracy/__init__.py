"""Local `evaluate` metric: `evaluate.load("<package>/metrics/intent_accuracy")`. No hub."""
