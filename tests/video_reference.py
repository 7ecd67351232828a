"""Videos as 8-bit pixels and their structural similarity, straight from the definitions."""

import numpy as np


def as_pixels(video):
    """[frames, height, width, 3] 8-bit pixels of a float video [3, frames, height, width] in [-1, 1]."""
    return np.rint(np.clip((video.astype(np.float32) + np.float32(1)) * np.float32(127.5), 0, 255)).astype(np.float64).transpose(1, 2, 3, 0)


def reference_ssim(a, b):
    """Direct form: every 11x11 window by itself."""
    offsets = np.arange(11) - 5
    window = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets[None, :] ** 2) / 1.5**2)
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for frame_a, frame_b in zip(a, b):
        for y in range(frame_a.shape[0] - 10):
            for x in range(frame_a.shape[1] - 10):
                for channel in range(3):
                    p = frame_a[y : y + 11, x : x + 11, channel]
                    q = frame_b[y : y + 11, x : x + 11, channel]
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                    cov = (window * (p - mp) * (q - mq)).sum()
                    values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return np.mean(values)
