"""What a test measures, by a named protocol."""

from lightning_modules.metrics.psnr_ssim import psnr, ssim

__all__ = ["psnr", "ssim"]
