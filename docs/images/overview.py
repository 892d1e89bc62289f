"""Draws the picture of the README from a finished run: `python docs/images/overview.py runs/quickstart`.

The input of one of the run's test images, then a region of the bicubic enlargement, of the result and of the truth,
with the PSNR of the whole image as it stands in results.json. Every pixel is shown as a block of the same size.
"""

import argparse
from pathlib import Path

import hydra
import torch
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont

from datamodules.batch import Batch
from experiments.results.records import read_records
from lightning_modules.checkpoints.checkpoint import load_network
from lightning_modules.metrics.psnr_ssim import to_eight_bit
from networks.ops.resize import bicubic_resize

HERE = Path(__file__).parent
PROTOCOL = "y_shave4"
ZOOM, GAP, MARGIN, CAPTION = 2, 24, 24, 56
INK, PALE, ACCENT = (24, 24, 24), (100, 100, 100), (255, 60, 40)


def measured_batch(run: Path, name: str) -> Batch:
    """The test image of this name with the input that the run was measured on."""
    config = OmegaConf.load(run / "config.yaml")
    config.data.num_workers = 0
    datamodule = hydra.utils.instantiate(config.data, _convert_="all")
    datamodule.prepare_data()
    datamodule.setup("test")
    found = {batch.name[0]: batch for batch in datamodule.test_dataloader()}
    return datamodule.degradation(found[name])


def scores(run: Path, name: str) -> dict[str, str]:
    """PSNR of one image in the run's own test, by model, as captions show it."""
    records = read_records(run / "results.json")
    own = [r for r in records if r.protocol_name == PROTOCOL and r.dataset == "sample" and not r.suite]
    return {record.model: f"{record.images[name]['psnr']:.2f} dB ({PROTOCOL})" for record in own}


def as_picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(to_eight_bit(image[0]).permute(1, 2, 0).byte().numpy())


@torch.no_grad()
def draw(run: Path, name: str, region: tuple[int, int, int, int]) -> Image.Image:
    """The picture; `region` is left, top, right, bottom in pixels of the sharp image."""
    batch = measured_batch(run, name)
    network, _ = load_network(run / "checkpoints" / "best.ckpt")
    psnr = scores(run, name)
    lr, hr = as_picture(batch.lr), as_picture(batch.hr)
    columns = [
        (
            as_picture(bicubic_resize(batch.lr, batch.scale)),
            "bicubic enlargement",
            psnr["bicubic"],
        ),
        (
            as_picture(network(lr=batch.lr).sr),
            "deblurred and enlarged",
            f"ED-DSRN, {psnr['ed_dsrn']}",
        ),
        (hr, "ground truth", f"{hr.width} x {hr.height} pixels"),
    ]
    width, height = ((region[i + 2] - region[i]) * ZOOM for i in (0, 1))
    left = lr.width * ZOOM
    size = (2 * MARGIN + left + len(columns) * (GAP + width), 2 * MARGIN + CAPTION + height)
    canvas = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(canvas)

    def caption(x: int, title: str, below: str) -> None:
        pen.text((x, MARGIN - 6), title, INK, ImageFont.load_default(22))
        pen.text((x, MARGIN + 22), below, PALE, ImageFont.load_default(18))

    caption(MARGIN, "input", f"{lr.width} x {lr.height} pixels")
    canvas.paste(lr.resize((left, lr.height * ZOOM), Image.Resampling.NEAREST), (MARGIN, MARGIN + CAPTION))
    box = [
        value * ZOOM // batch.scale + offset
        for value, offset in zip(region, (MARGIN, MARGIN + CAPTION) * 2, strict=True)
    ]
    pen.rectangle(box, outline=ACCENT, width=2)
    for i, (picture, title, below) in enumerate(columns):
        x = MARGIN + left + GAP + i * (GAP + width)
        caption(x, title, below)
        canvas.paste(picture.crop(region).resize((width, height), Image.Resampling.NEAREST), (x, MARGIN + CAPTION))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of experiment=quickstart")
    parser.add_argument("--image", default="astronaut")
    parser.add_argument("--region", type=int, nargs=4, default=(324, 24, 492, 264), metavar="PIXEL")
    parser.add_argument("--out", type=Path, default=HERE / "overview.jpg")
    args = parser.parse_args()
    draw(args.run, args.image, tuple(args.region)).save(args.out, quality=90, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
