"""Import paths and parameters are those of the package mindiesd 3.1.0: names, order, defaults and kinds, written down here."""
import importlib
import inspect

import mindiesd
import pytest

ALL = {"CacheConfig", "CacheAgent", "layernorm_scale_shift", "attention_forward", "attention_forward_varlen", "rotary_position_embedding",
       "get_activation_layer", "RMSNorm", "quantize", "OnlineQuantConfig", "QuantConfig", "TimestepManager", "TimestepPolicyConfig",
       "quant_attention", "sparse_attention", "fast_layernorm", "frequency_regulator", "fused_moe"}
PATHS = {
    "mindiesd.quantization": "quantize TimestepManager OnlineQuantConfig QuantConfig LayerQuantConfig TimestepPolicyConfig QuantMode QuantFlag "
                             "QuantModeDescriptor FP8FAMode extract_constructor_args replace_rank_suffix get_quant_weight",
    "mindiesd.quantization.mode": "QuantAlgorithm QuantMode QuantFlag QuantModeDescriptor FP8FAMode normalize_fp8_fa_mode",
    "mindiesd.cache_agent": "CacheConfig CacheAgent",
    "mindiesd.quantization.quantize": "quantize",
    "mindiesd.quantization.config": "OnlineQuantConfig QuantConfig LayerQuantConfig TimestepPolicyConfig",
    "mindiesd.quantization.utils": "TimestepManager extract_constructor_args replace_rank_suffix get_quant_weight match_layer_pattern "
                                   "match_layer_patterns match_layer_config match_fa_layer get_mxfp4_quant_kwargs create_online_hadamard_rot "
                                   "build_online_fa_rot_weights",
    "mindiesd.quantization.layer": "FP8RotateQuantFA MXFP8RotateQuantFA MXFP4QuantFA",
    "mindiesd.layers": "RMSNorm attention_forward attention_forward_varlen fast_layernorm frequency_regulator fused_moe "
                       "get_activation_layer layernorm_scale_shift muls_add residual_gate_add rotary_position_embedding sparse_attention quant_attention "
                       "SparseLinearAttention",
    "mindiesd.layers.norm": "RMSNorm fast_layernorm",
    "mindiesd.layers.rope": "rotary_position_embedding",
    "mindiesd.layers.activation": "get_activation_layer GELU",
    "mindiesd.layers.quant.block_quant": "fa_block_quant_preprocess",
    "mindiesd.layers.flash_attn.sparse_flash_attn_rf_v2": "rain_fusion_attention avgpool get_mask_index get_blockwise_mask "
                                                          "rearrange_with_remaining inv_rearrange_with_remaining do_tensor_rearrange_pooling "
                                                          "do_tensor_inv_rearrange",
    "mindiesd.layers.flash_attn.quant_flash_attn": "quant_attention",
    "mindiesd.layers.flash_attn.common": "AttentionParam",
    "mindiesd.utils.get_platform": "NPUDevice get_npu_device is_a5_device",
    "mindiesd.utils.utils": "is_npu_available",
    "mindiesd.layers.adalayernorm": "layernorm_scale_shift",
    "mindiesd.layers.flash_attn": "attention_forward attention_forward_varlen sparse_attention quant_attention SparseLinearAttention",
    "mindiesd.layers.flash_attn.attention_forward": "attention_forward get_manual_attention_op_type",
    "mindiesd.layers.flash_attn.attention_forward_varlen": "attention_forward_varlen",
    "mindiesd.layers.flash_attn.sparse_flash_attn": "sparse_attention",
    "mindiesd.utils": "ParametersInvalid ConfigError TorchError ModelInitError ModelExecError",
    "mindiesd.utils.exception": "ParametersInvalid ConfigError TorchError ModelInitError ModelExecError",
    "mindiesd.compilation": "MindieSDBackend CompilationConfig",
    "mindiesd.offload": "enable_offload",
}
# name=default; "!" behind a name: no default.
PARAMETERS = {
    "quantize": "model!, quant_des_path=None, online_config=None, **kwargs",
    "QuantConfig": "quant_des_path=None, quant_algo=None, quantized_layers=None, exclude_layers=None, dtype=torch.bfloat16, use_nz=None, "
                   "timestep_config=None, mxfp4_scale_alg=None, mxfp4_dst_type_max=7.25",
    "OnlineQuantConfig": "quant_type=W8A8_DYNAMIC, fallback_layers=None, fa_layers=None, fa_quant_type=None, timestep_config=None, "
                         "mxfp4_scale_alg=None, mxfp4_dst_type_max=7.25, fallback_timesteps=None",
    "TimestepPolicyConfig": "default_strategy=dynamic, w4a4_default_strategy=W4A4, fa_default_strategy=MXFP4",
    "TimestepPolicyConfig.register": "self!, step_range!, strategy!, target=w4a4_linear",
    "TimestepPolicyConfig.get_strategy": "self!, step!, target=w4a4_linear",
    "TimestepManager.set_timestep_idx": "cur_timestep!",
    "TimestepManager.get_timestep_idx": "",
    "TimestepManager.set_timestep_idx_max": "t_idx!",
    "TimestepManager.get_timestep_idx_max": "",
    "sparse_attention": "q!, k!, v!, attn_mask=None, scale=None, is_causal=False, head_num=1, input_layout=BNSD, inner_precise=0, "
                        "sparse_type=None, txt_len=0, block_size=128, latent_shape_q=None, latent_shape_k=None, video_spans=None, "
                        "keep_sink=True, keep_recent=True, cdf_threshold=1.0, sparsity=0.0, precision=bf16, mxfp4_dst_type_max=0.0, "
                        "mxfp4_scale_alg=None, **kwargs",
    "quant_attention": "query!, key!, value!, precision=fp8, *, layout=BNSD, scale=None, q_rot=None, k_rot=None, pre_tokens=2147483647, "
                       "next_tokens=2147483647, **kwargs",
    "layers.flash_attn.sparse_flash_attn_rf_v2.rain_fusion_attention":
        "query!, key!, value!, scale=None, head_num=None, input_layout=TND, select_idx=None, select_num_idx=None, blockshape=None, "
        "actual_seq_lengths=None, actual_seq_lengths_kv=None, inner_precise=0",
    "layers.quant.block_quant.fa_block_quant_preprocess": "input_tensor!, block_size=128, col_block_size=128, dst_type=None, **kwargs",
    "CacheConfig": "method!, blocks_count!, steps_count!, step_start=0, step_interval=1, step_end=10000, block_start=0, block_end=10000",
    "CacheAgent": "config!",
    "attention_forward": "query!, key!, value!, attn_mask=None, scale=None, fused=True, head_first=False, **kwargs",
    "attention_forward_varlen": "q!, k!, v!, cu_seqlens_q!, cu_seqlens_k!, max_seqlen_q=None, max_seqlen_k=None, dropout_p=0.0, "
                                "softmax_scale=None, causal=False, window_size=None, softcap=None, alibi_slopes=None, deterministic=None, "
                                "return_attn_probs=None, block_table=None",
    "rotary_position_embedding": "x!, cos!, sin!, rotated_mode=rotated_half, head_first=False, fused=True",
    "RMSNorm": "hidden_size!, eps=1e-06",
    "RMSNorm.forward": "self!, hidden_states!, if_fused=True",
    "layernorm_scale_shift": "layernorm!, x!, scale!, shift!, fused=True",
    "fast_layernorm": "norm!, x!, impl_mode=0, fused=True",
    "get_activation_layer": "act_type!",
}
ALGORITHMS = {"W8A8", "W8A8_TIMESTEP", "W8A8_DYNAMIC", "W4A4_DYNAMIC", "W8A8_MXFP8", "W4A4_MXFP4", "W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ",
              "W8A16_GPTQ", "W4A16_GPTQ", "W8A8_PER_CHANNEL", "W8A8_PER_TENSOR", "W8A8_PER_CHANNEL_PER_TOKEN", "W8A8_PER_CHANNEL_PER_TENSOR",
              "W8A8_PER_TENSOR_PER_TOKEN", "INT8", "MIXED_PERCISION", "FP8_DYNAMIC", "MXFP8_DYNAMIC", "MXFP4_DYNAMIC", "NO_QUANT",
              "W4A4_MXFP4_SVD", "W4A4_MXFP4_DUALSCALE", "W4A8", "W16A16"}


def test_public_names():
    assert set(mindiesd.__all__) == ALL and all(hasattr(mindiesd, name) for name in ALL)
    from mindiesd.quantization.mode import QuantAlgorithm

    assert {a.value for a in QuantAlgorithm} == ALGORITHMS and QuantAlgorithm.W4A4_MXFP4_DYNAMIC == "W4A4_MXFP4"


@pytest.mark.parametrize("path", PATHS)
def test_import_paths(path):
    module = importlib.import_module(path)
    assert all(callable(getattr(module, name)) for name in PATHS[path].split())


def written(function):
    parts = []
    for name, p in inspect.signature(function).parameters.items():
        if p.kind is p.VAR_KEYWORD:
            parts.append(f"**{name}")
        else:
            if p.kind is p.KEYWORD_ONLY and "*" not in parts:
                parts.append("*")
            assert p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.KEYWORD_ONLY, name
            parts.append(f"{name}!" if p.default is p.empty else f"{name}={p.default}")
    return ", ".join(parts)


@pytest.mark.parametrize("path", PARAMETERS)
def test_parameters(path):
    target = mindiesd
    for part in path.split("."):
        target = getattr(target, part)
    assert written(target) == PARAMETERS[path]


@pytest.mark.parametrize("path", ["frequency_regulator", "fused_moe", "layers.SparseLinearAttention",
                                  "compilation.MindieSDBackend", "offload.enable_offload", "share_memory.share_memory",
                                  "eplb.run_scheduler"])
def test_what_is_not_offered_says_what_to_use(path):
    module, _, name = f"mindiesd.{path}".rpartition(".")
    with pytest.raises(NotImplementedError, match=rf"\[mindiesd\] {name} is not offered on a CPU: \w.{{10,}}"):
        getattr(importlib.import_module(module), name)(1, key=2)
