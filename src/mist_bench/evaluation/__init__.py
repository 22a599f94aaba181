"""Metrics from stored predictions, without torch."""
