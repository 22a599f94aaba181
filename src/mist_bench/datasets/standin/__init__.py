"""Scenes that stand in for photographs, in the same file formats."""
