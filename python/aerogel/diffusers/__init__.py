"""Aerogel inside diffusers: `import aerogel.diffusers` registers

* AerogelConfig, the `quantization_config=` of from_pretrained, and what reads saved models again;
* the attention backend "aerogel" for `model.set_attention_backend("aerogel")`;
* LoRA adapters of peft on quantized layers.

`aerogel.quantize` imports it by itself for models of diffusers. It changes three tables: diffusers' quantizers, diffusers' attention
backends and peft's choice of LoRA layers.
"""
from importlib.util import find_spec

from diffusers.quantizers import auto

from ..timestep import timestep_callback
from . import backend
from .loading import AerogelConfig, AerogelQuantizer, QuantMethod, describe
from .models import VIDEO_MODELS, VideoModel, attention_identifiers
from .modules import give_back, hasten
from .parallel import enable_parallelism
from .plan import AttentionPlan, AttentionReport, enable_sparse_attention

__all__ = ["VIDEO_MODELS", "AerogelConfig", "AttentionPlan", "AttentionReport", "VideoModel", "attention_identifiers", "describe", "enable_parallelism",
           "enable_sparse_attention", "give_back", "hasten", "timestep_callback"]

auto.AUTO_QUANTIZATION_CONFIG_MAPPING[QuantMethod.AEROGEL.value] = AerogelConfig
auto.AUTO_QUANTIZER_MAPPING[QuantMethod.AEROGEL.value] = AerogelQuantizer
backend.register()
if find_spec("peft"):
    from .. import lora

    lora.register()
