"""Small float models for the tests of quantized files."""
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.utils import logging

logging.set_verbosity_error()
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}



@pytest.fixture(scope="session")
def float_model(tmp_path_factory):
    """float_model("bf16") -> (folder, state dict): 2 blocks of width 64, random weights with a row of zeros and a biasless look."""
    made = {}

    def make(dtype):
        if dtype not in made:
            folder = tmp_path_factory.mktemp(dtype)
            torch.manual_seed(7)
            model = WanTransformer3DModel(
                patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4,
                text_dim=24, freq_dim=32, ffn_dim=96, num_layers=2, rope_max_seq_len=32)
            with torch.no_grad():
                for value in model.parameters():
                    value.copy_(torch.randn_like(value) * 0.2)
                model.blocks[0].ffn.net[2].weight[3] = 0
            model = model.to(DTYPES[dtype])
            for parameter in model.parameters():  # diffusers keeps some in float32 when it casts
                parameter.data = parameter.data.to(DTYPES[dtype])
            model.save_pretrained(folder)
            made[dtype] = folder, {k: v.detach().clone() for k, v in model.state_dict().items()}
        return made[dtype]

    return make
