"""Draws a region of a photograph beside its restoration: `python docs/images/restored.py PHOTOGRAPH RESULT`.

The photograph is enlarged by bicubic interpolation to the size of the result.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GAP, MARGIN, CAPTION = 16, 16, 40
INK = (24, 24, 24)


def draw(photograph: Image.Image, result: Image.Image, region: tuple[int, int, int, int]) -> Image.Image:
    """Both side by side; `region` is left, top, right, bottom in pixels of the result."""
    enlarged = photograph.resize(result.size, Image.Resampling.BICUBIC)
    width, height = region[2] - region[0], region[3] - region[1]
    canvas = Image.new("RGB", (2 * (MARGIN + width) + GAP, 2 * MARGIN + CAPTION + height), (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    for number, (picture, title) in enumerate(((enlarged, "before, enlarged bicubically"), (result, "after"))):
        x = MARGIN + number * (width + GAP)
        pen.text((x, MARGIN - 4), title, INK, ImageFont.load_default(22))
        canvas.paste(picture.crop(region), (x, MARGIN + CAPTION))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--region", type=int, nargs=4, default=(340, 240, 760, 600), metavar="PIXEL")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "restored.jpg")
    args = parser.parse_args()
    picture = draw(*(Image.open(path).convert("RGB") for path in (args.photograph, args.result)), tuple(args.region))
    picture.save(args.out, quality=90, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
