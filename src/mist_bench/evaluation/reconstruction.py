"""How well images are reconstructed (Table 1). N images of C channels, H by W pixels."""

import numpy as np
from numpy.typing import NDArray


def as_unit(image: NDArray) -> NDArray:
    """Return an image in [0, 1] as float64: uint8 is divided by 255, floats are taken as is."""
    image = np.asarray(image)
    return image / 255 if image.dtype == np.uint8 else image.astype(np.float64)


def rmse_metrics(images: NDArray, reconstructions: NDArray) -> dict[str, float]:
    """Return the root mean square errors, by name.

    Args:
        images: (N, C, H, W) uint8, or floats in [0, 1].
        reconstructions: (N, C, H, W) floats, not clipped.

    Returns:
        ``rmse`` over all pixels of the set (Table 1; the paper does not say whether globally or
        per image), ``rmse_zero`` of an all-black reconstruction and ``rmse_gray`` of 0.5 everywhere
        as scales, ``rmse_image_mean`` and ``rmse_image_std`` over images.

    Raises:
        ValueError: if the shapes differ or there is no image.
    """
    if images.shape != reconstructions.shape or len(images) == 0:
        raise ValueError(f"reconstructions must be {images.shape}, got {reconstructions.shape}")
    errors, black, gray = np.empty((3, len(images)))
    for i, (image, reconstruction) in enumerate(zip(images, reconstructions, strict=True)):
        unit = as_unit(image)
        errors[i] = np.mean((unit - reconstruction.astype(np.float64)) ** 2)
        black[i], gray[i] = np.mean(unit**2), np.mean((unit - 0.5) ** 2)
    return {
        "rmse": float(np.sqrt(errors.mean())),
        "rmse_zero": float(np.sqrt(black.mean())),
        "rmse_gray": float(np.sqrt(gray.mean())),
        "rmse_image_mean": float(np.sqrt(errors).mean()),
        "rmse_image_std": float(np.sqrt(errors).std()),
    }
