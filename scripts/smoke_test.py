#!/usr/bin/env python3
"""An installed aerogel without torch: what must work with NumPy alone, the command, and the error of what needs torch.
To be run by the Python of the environment, outside of the source tree."""
import importlib.util
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import aerogel
import numpy as np


def save(path, tensors):
    """A float32 .safetensors file, written by hand."""
    import json

    header, data = {}, b""
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def softmax_attention(q, k, v):
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v.astype(np.float64)


def main():
    random = np.random.default_rng(0)
    q, k, v = random.normal(size=(3, 1, 2, 70, 40)).astype(np.float32)
    np.testing.assert_allclose(aerogel.attention(q, k, v), softmax_attention(q, k, v), atol=1e-5)
    video = random.normal(size=(3, 1, 2, 1024, 32)).astype(np.float32)
    report = aerogel.sparse_attention(*video, sparse_type="rf_v2", sparsity=0.5, block_size=16, latent_shape_q=(8, 8, 16),
                                      return_report=True)[1]
    assert report["density"] < 1, report
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        save(model, {"blocks.0.ffn.a.weight": random.normal(size=(16, 64)).astype(np.float32), "norm": np.ones(3, np.float32)})
        written = aerogel.export(model, Path(folder) / "q", "W8A8_DYNAMIC")
        assert [layer.name for layer in written.layers] == ["blocks.0.ffn.a"] and written.layers[0].relative_error < 0.01
        inspected = aerogel.inspect(Path(folder) / "q")
        assert inspected["kind"] == "quantized" and not inspected.problems
        assert aerogel.compare(model, model)["norm"].relative_l2 == 0
        command = [sys.executable, "-m", "aerogel", "inspect", written.description]
        assert "no problems" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    script = Path(sys.executable).with_name("aerogel")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout.strip() == aerogel.__version__
    if importlib.util.find_spec("torch") is None:
        try:
            aerogel.quantize
        except ModuleNotFoundError as error:
            assert error.name == "torch"
        else:
            raise AssertionError("aerogel.quantize came without torch")
    print(f"aerogel {aerogel.__version__} works ({Path(aerogel.__file__).parent})")


if __name__ == "__main__":
    main()
