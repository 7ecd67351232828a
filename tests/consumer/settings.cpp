// Whoever fills in a struct names what it sets and nothing else, with all warnings on: every member has a
// value.
#include "aerogel/attention.h"
#include "aerogel/block_mask.h"
#include "aerogel/description.h"
#include "aerogel/layered_model.h"
#include "aerogel/pipeline.h"
#include "aerogel/quantize.h"
#include "aerogel/quantized_linear.h"
#include "aerogel/safetensors.h"
#include "aerogel/sampler.h"
#include "aerogel/sparse_attention.h"
#include "aerogel/sparse_profile.h"
#include "aerogel/step_cache.h"
#include "aerogel/timings.h"
#include "aerogel/tokenizer.h"
#include "aerogel/transformer.h"
#include "aerogel/video.h"

void every_struct_takes_one_name();
void every_struct_takes_one_name() {
    [[maybe_unused]] const aerogel::AttentionScales s0{.q_scale = {}};
    [[maybe_unused]] const aerogel::AttentionOptions s1{.causal = true};
    [[maybe_unused]] const aerogel::AttentionQuantization s2{.quant_type = "x"};
    [[maybe_unused]] const aerogel::BlockMask s3{.batch = 1};
    [[maybe_unused]] const aerogel::QuantDescription s4{.model_quant_type = "x"};
    [[maybe_unused]] const aerogel::StepContext s5{.dynamic = true};
    [[maybe_unused]] const aerogel::StoredWeight s6{.dtype = aerogel::DType::f32};
    [[maybe_unused]] const aerogel::LoraFile s7{.weight = 2};
    [[maybe_unused]] const aerogel::LoadOptions s8{.rank = 1};
    [[maybe_unused]] const aerogel::Mxfp4Scale s9{.algorithm = 2};
    [[maybe_unused]] const aerogel::SamplingOptions s10{.frames = 1};
    [[maybe_unused]] const aerogel::GenerateOptions s11{.prompt = "x"};
    [[maybe_unused]] const aerogel::GenerateResult s12{.is_latents = true};
    [[maybe_unused]] const aerogel::OnlineQuantConfig s13{.quant_type = "x"};
    [[maybe_unused]] const aerogel::QuantizeReport s14{.because = "x"};
    [[maybe_unused]] const aerogel::QuantizeReport::Layer s15{.name = "x"};
    [[maybe_unused]] const aerogel::QuantizeOptions s16{.rank = 1};
    [[maybe_unused]] const aerogel::QuantizedLinearWeights s17{.scheme = "x"};
    [[maybe_unused]] const aerogel::QuantizedTensor s18{.rows = 1};
    [[maybe_unused]] const aerogel::TensorInfo s19{.name = "x"};
    [[maybe_unused]] const aerogel::NoiseLevels s20{.steps = 1};
    [[maybe_unused]] const aerogel::SparsePattern s21{.type = "x"};
    [[maybe_unused]] const aerogel::LatentShape s22{.frames = 1};
    [[maybe_unused]] const aerogel::VideoSpan s23{.start = 1};
    [[maybe_unused]] const aerogel::VideoLayout s24{.txt_len = 1};
    [[maybe_unused]] const aerogel::SparsePlanOptions s25{.keep_cells = true};
    [[maybe_unused]] const aerogel::SparseHead s26{.recall = 1};
    [[maybe_unused]] const aerogel::SparsePlan s27{.predicted = true};
    [[maybe_unused]] const aerogel::SparseConfig s28{.start_step = 1};
    [[maybe_unused]] const aerogel::SparseReport s29{.predicted = true};
    [[maybe_unused]] const aerogel::ProfileSpan s30{.first_step = 1};
    [[maybe_unused]] const aerogel::SparseProfile s31{.steps = 1};
    [[maybe_unused]] const aerogel::StepCacheConfig s32{.threshold = 1};
    [[maybe_unused]] const aerogel::OperationTime s33{.op = "x"};
    [[maybe_unused]] const aerogel::EncodeOptions s34{.pad = true};
    [[maybe_unused]] const aerogel::Encoding s35{.ids = {}};
    [[maybe_unused]] const aerogel::TransformerConfig s36{.num_layers = 1};
    [[maybe_unused]] const aerogel::TransformerInput s37{.hidden_states = {}};
    [[maybe_unused]] const aerogel::AttentionInput s38{.name = "x"};
    [[maybe_unused]] const aerogel::TransformerStep s39{.sparse = nullptr};
    [[maybe_unused]] const aerogel::SaveVideoOptions s40{.parameters = "x"};
    [[maybe_unused]] const aerogel::TensorView s41{.dtype = aerogel::DType::f32};
    [[maybe_unused]] const aerogel::MutableView s42{.dtype = aerogel::DType::f32};
    [[maybe_unused]] const aerogel::Context s43{.threads = 1};
    [[maybe_unused]] const aerogel::PackedSequences s44{.q = {}};
    [[maybe_unused]] const aerogel::AttentionArrays s45{.q = {}};
    [[maybe_unused]] const aerogel::LinearSlot s46{.name = "x"};
    [[maybe_unused]] const aerogel::AttentionSlot s47{.heads = 1};
    [[maybe_unused]] const aerogel::SparseCall s48{.step = 1};
    [[maybe_unused]] const aerogel::StageSeconds s49{.stage = "x"};
    [[maybe_unused]] const aerogel::CachedPass s50{.step = 1};
    [[maybe_unused]] const aerogel::KeptSparsePlan s51{.step = 1};
    [[maybe_unused]] const aerogel::TokenLayout s52{.q = {}};
}
