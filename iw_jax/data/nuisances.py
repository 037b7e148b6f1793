"""Nuisances: what changes an image and says nothing about its label."""

import numpy as np


def occlude(images: np.ndarray, places: np.ndarray, *, grid: int, side: int) -> np.ndarray:
    """Images with a square of the brightest pixel value laid over one of grid x grid places.

    The places lie in rows, evenly from edge to edge (rounded to whole pixels). Squares may overlap,
    but no two of them are the same.

    Args:
      images: (N, H, W, C); not changed.
      places: (N,) integers in 0 .. grid² - 1, rows first.
      grid: places along each side of the image, at least 2, at most min(H, W) - side + 1.
      side: pixels along each side of the square, at least 1, below H and W.

    Returns:
      (N, H, W, C), of the images' dtype.

    Raises:
      ValueError: if an argument is out of its range.
    """
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, H, W, C), got {images.shape}")
    number, height, width, _ = images.shape
    room = min(height, width)
    if not 1 <= side < room:
        raise ValueError(f"side must be in 1 .. {room - 1}, got {side}")
    if not 2 <= grid <= room - side + 1:
        raise ValueError(
            f"grid must be in 2 .. {room - side + 1}, the places of a square of {side} along "
            f"{room} pixels, got {grid}"
        )
    places = np.asarray(places)
    if places.shape != (number,) or not np.issubdtype(places.dtype, np.integer):
        raise ValueError(
            f"places must be {number} integers, got {places.dtype} of shape {places.shape}"
        )
    if number and (places.min() < 0 or places.max() >= grid**2):
        raise ValueError(
            f"places must lie in 0 .. {grid**2 - 1}, got {places.min()} .. {places.max()}"
        )
    covered = []
    for length, place in ((height, places // grid), (width, places % grid)):
        start = np.rint(np.linspace(0, length - side, grid)).astype(int)[place]
        pixel = np.arange(length)
        covered.append((start[:, None] <= pixel) & (pixel < start[:, None] + side))
    rows, columns = covered
    square = (rows[:, :, None] & columns[:, None, :])[..., None]
    return np.where(square, images.max(), images)
