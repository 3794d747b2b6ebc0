"""The one table of tolerances. Relative ones are fractions of max|reference|."""

RELATIVE = {
    "float64": 1e-10,
    "float32": 1e-5,
    "float32.param_grad": 5e-5,
    "bf16": 2e-2,
    "bf16.rms": 6.5e-3,
    "bf16.rms_grad": 1.5e-2,
    "float16.rounded": 1e-3,
    "gradnorm": 1e-3,
    "gradnorm.network": 1e-4,
}

ABSOLUTE = {
    "network.float32": 1e-5,
    "network.float64": 1e-10,
    "psnr": 1e-4,
    "psnr.derived": 1e-9,
    "ssim": 1e-6,
    "ssim.derived": 1e-9,
    "psnr.measured": 1e-3,
    "ssim.measured": 2e-5,
    "psnr.published": 1e-2,
    "ssim.published": 2e-4,
    "psnr.published.uint8_lr": 1e-3,
    "ssim.published.uint8_lr": 1e-4,
    "luminance.float32": 5e-5,
    "lossy.mean_levels": 2.0,
    "lossy.stripes": 10.0,
    "imresize.float64": 1e-12,
    "imresize.float32": 2e-6,
}
