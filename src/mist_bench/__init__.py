"""Reproducibility benchmark for MIST: Multiple Instance Spatial Transformer (CVPR 2021)."""
