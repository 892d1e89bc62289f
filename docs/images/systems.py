"""Draws what the systems make of one test image: `python docs/images/systems.py "ED-DSRN, x4=runs/NAME" ...`.

Every argument is a caption and the folder of a training or an evaluation on data=sample, which has kept its pictures: a
region of the input, enlarged bicubically, of the result and of the truth, with the PSNR of the whole image before and
after as it stands in results.json.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from experiments.results.records import read_records

COLUMNS, GAP, MARGIN, CAPTION = 2, 4, 20, 58
INK, PALE = (24, 24, 24), (100, 100, 100)


def gain(run: Path, name: str) -> str:
    """PSNR of the enlarged input and of the result, by the first protocol of the run."""
    records = [r for r in read_records(run / "results.json") if r.dataset == "sample" and r.branch == "sr"]
    baseline, *others = (r for r in records if r.protocol_name == records[0].protocol_name)
    before, after = (record.images[name]["psnr"] for record in (baseline, others[-1]))
    return f"{before:.2f} dB to {after:.2f} dB ({baseline.protocol_name})"


def crops(run: Path, name: str, region: tuple[int, int, int, int]) -> list[Image.Image]:
    """Input, result and truth; `region` is left, top, right, bottom in pixels of the photograph, 512x512."""
    folder = run / "images" / "sample"
    lr, sr, hr = (Image.open(folder / f"{name}_{kind}.png").convert("RGB") for kind in ("input", "sr", "hr"))
    border = [(512 - side) // 2 for side in hr.size] * 2  # that a degradation cuts off
    box = [side - cut for side, cut in zip(region, border, strict=True)]
    return [image.crop(tuple(box)) for image in (lr.resize(hr.size, Image.Resampling.BICUBIC), sr, hr)]


def draw(rows: list[tuple[str, Path]], name: str, region: tuple[int, int, int, int]) -> Image.Image:
    width, height = region[2] - region[0], region[3] - region[1]
    cell = (3 * width + 2 * GAP + MARGIN, height + CAPTION + MARGIN)
    lines = -(-len(rows) // COLUMNS)
    canvas = Image.new("RGB", (MARGIN + COLUMNS * cell[0], MARGIN + lines * cell[1]), (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    for number, (title, run) in enumerate(rows):
        x, y = MARGIN + number % COLUMNS * cell[0], MARGIN + number // COLUMNS * cell[1]
        pen.text((x, y), title, INK, ImageFont.load_default(20))
        pen.text((x, y + 28), gain(run, name), PALE, ImageFont.load_default(17))
        for i, picture in enumerate(crops(run, name, region)):
            canvas.paste(picture, (x + i * (width + GAP), y + CAPTION))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="CAPTION=RUN")
    parser.add_argument("--image", default="astronaut")
    parser.add_argument("--region", type=int, nargs=4, default=(160, 30, 328, 180), metavar="PIXEL")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "systems.jpg")
    args = parser.parse_args()
    rows = [(title, Path(run)) for title, _, run in (row.rpartition("=") for row in args.rows)]
    draw(rows, args.image, tuple(args.region)).save(args.out, quality=88, optimize=True)


if __name__ == "__main__":
    main()
