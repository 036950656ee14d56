"""Scores to json, markdown and html. Computes nothing."""
