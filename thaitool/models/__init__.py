"""Encoders, pretraining objective, projector and speech LM, in transformers form. Knows nothing of stages."""
