"""Noisy images: their spread, their ends, and that a batch is the same whenever it is asked for."""

import numpy as np
import pytest

from ghn_jax import images
from ghn_jax.images import ImageError, Split
from ghn_jax.images.augment import with_noise


def test_noise_has_the_spread_that_was_asked_for_and_ends_at_black_and_white():
    rng = np.random.default_rng(0)
    grey = np.full((8, 32, 32, 3), 128, np.uint8)
    noisy = with_noise(grey, 0.08, rng)
    assert noisy.dtype == np.float32
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.02) and noisy.mean() == pytest.approx(128, abs=0.5)
    white = with_noise(np.full_like(grey, 255), 0.08, rng)
    assert white.max() == 255 and (white == 255).mean() == pytest.approx(0.5, abs=0.02)
    assert with_noise(np.zeros_like(grey), 0.08, rng).min() == 0
    np.testing.assert_array_equal(with_noise(grey, 0.0, rng), grey)


def test_batches_with_noise():
    digits = images.load("digits")
    split = Split(digits.test.images[:50], digits.test.labels[:50])

    def batches(noise):
        return [batch.images for batch, _ in images.eval_batches(split, digits, 20, noise)]

    clean, noisy = batches(0.0), batches(0.08)
    for first, again in zip(noisy, batches(0.08), strict=True):
        np.testing.assert_array_equal(first, again)
    difference = (noisy[0] - clean[0]) * np.array(digits.std, np.float32)
    inside = np.abs(clean[0] * np.array(digits.std) + np.array(digits.mean) - 0.5) < 0.25
    assert difference[inside].std() == pytest.approx(0.08, rel=0.05)
    assert not np.allclose(noisy[0], noisy[1])
    with pytest.raises(ImageError, match="noise=-0.1: expected a number from 0 to 1"):
        images.eval_batches(split, digits, 20, -0.1)


def test_command_refuses_noise_that_is_none(capsys):
    from ghn_jax.cli import evaluate

    assert evaluate.parse_args(["--noise=0.08"]).noise == 0.08
    with pytest.raises(SystemExit):
        evaluate.parse_args(["--noise=2"])
    assert "argument --noise: '2': expected a number from 0 to 1" in capsys.readouterr().err
