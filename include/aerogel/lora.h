// Low-rank adaptations (LoRA, Hu et al., arXiv 2106.09685): W + weight * alpha / rank * B A.
// layer: model
#pragma once

#include <string>
#include <vector>

#include "aerogel/layered_model.h"
#include "aerogel/load_options.h"

namespace aerogel {

/// Merges a .safetensors file into the float Linears of `model`; the layers changed, in the model's order.
/// Takes the names of diffusers and PEFT ("transformer.blocks.0.attn1.to_q.lora_A.weight"), of kohya
/// ("lora_unet_blocks_0_self_attn_q.lora_down.weight") and the original ones behind "diffusion_model.", each
/// also fused (q, k and v as one layer); scales by "alpha" of the file or of diffusers' metadata, else by 1;
/// adds to biases what the file has for them. Weights are merged when they are read: the sum, computed in
/// float32, is rounded to the type of the weight, and quantizing afterwards quantizes that. A and B stay in
/// memory as float32, no second copy of the weights does. Several files add up. IoError; InvalidArgument for
/// keys that fit no layer, wrong shapes, values that are not finite, and layers that are quantized already;
/// then nothing is changed.
std::vector<std::string> load_lora(LayeredModel& model, const LoraFile& lora);

}  // namespace aerogel
