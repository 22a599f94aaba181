"""Figures, one file for each of the paper."""
