"""Metrics: plain functions from references and predictions to `Score`. No files, no models."""
