"""Wan2.2's VAE behind the same interface as Wan2.1's: residual, of 48 channels, its pixels in patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adastate.encoders import WanVAE

FRAMES = 4


@pytest.fixture(scope="module")
def vae22(tmp_path_factory: pytest.TempPathFactory) -> WanVAE:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[wan]'")
    folder: Path = tmp_path_factory.mktemp("wan22")
    torch.manual_seed(0)
    diffusers.AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=12,
        z_dim=48,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=torch.linspace(-1, 1, 48).tolist(),
        latents_std=torch.linspace(0.5, 2, 48).tolist(),
    ).save_pretrained(folder / "vae")
    return WanVAE(str(folder), fps=24, dtype=None)


def test_latents_are_sixteen_times_smaller_and_a_stream_decodes_as_diffusers_does(vae22: WanVAE) -> None:
    assert (vae22.scale, vae22.channels, vae22.fps, vae22.video_frames(FRAMES)) == (16, 48, 24, 13)
    video = torch.rand(1, 13, 3, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = vae22.encode(video)
    assert latents.shape == (1, FRAMES, 48, 2, 4)
    raw = latents.transpose(1, 2) * vae22.std + vae22.mean
    with torch.no_grad():
        whole = vae22.vae.decode(raw).sample.transpose(1, 2)
    stream = vae22.stream()
    parts = torch.cat([stream.decode(part) for part in latents.split([1, 3], 1)], 1)
    # kernels for one frame and for three may sum in another order, which shows on some processors
    assert torch.allclose(parts, whole, atol=1e-5) and parts.shape == video.shape
