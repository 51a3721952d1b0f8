"""A folder as the archive of the Penn-Fudan pedestrians has it, of drawn pictures."""

import numpy as np
from PIL import Image

from ghn_jax.studies.detection import drawn


def write(folder, count, size=48):
    """Writes pictures with masks (one filled box each) and annotations; returns the pictures."""
    pictures = drawn.draw(count, size, seed=5)
    for name in ("PNGImages", "PedMasks", "Annotation"):
        (folder / name).mkdir()
    for number, one in enumerate(pictures, start=1):
        name = f"FudanPed{number:05}"
        # A mask has one value a pixel: people who overlap would hide each other.
        box = one.boxes[0].astype(int)
        mask = np.zeros((size, size), np.uint8)
        mask[box[1] : box[3], box[0] : box[2]] = 2
        Image.fromarray(one.pixels).save(folder / "PNGImages" / f"{name}.png")
        Image.fromarray(mask).save(folder / "PedMasks" / f"{name}_mask.png")
        lines = [f"Image size (X x Y x C) : {size} x {size} x 3"]
        for place, (left, top, right, bottom) in enumerate(one.boxes.astype(int), start=1):
            who = f'object {place} "PASpersonWalking"'
            edges = f"({left + 1}, {top + 1}) - ({right}, {bottom})"
            lines.append(f'Original label for {who} : "PennFudanPed"')
            lines.append(f"Bounding box for {who} (Xmin, Ymin) - (Xmax, Ymax) : {edges}")
        (folder / "Annotation" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return pictures
