"""Pretrained networks whose frozen features stand in for images: one file each.

Each file has ``build(**params)``, which returns a module from (B, 3, H, W) images in [0, 1] to
(B, C, h, w) features, and an entry in ``backbones`` of the configuration.
"""
