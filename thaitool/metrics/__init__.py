"""Metrics: plain functions from references and predictions to `Score`. They read and write no reports."""
