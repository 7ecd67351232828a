// Masks change slowly from step to step (RainFusion 2, arXiv 2512.24086: "mask refresh"), so a mask or the
// recognised head types may serve several steps.
#include "model/sparse_policy.h"

#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"

namespace aerogel {
namespace {

std::vector<HeadType> types_of(const SparseReport& report) {
    std::vector<HeadType> types;
    for (const HeadReport& head : report.heads) types.push_back(head.type);
    return types;
}

std::vector<HeadType> pinned_types(const SparseProfile& profile, const SelfAttention& call, int step) {
    std::vector<HeadType> types = profile.head_types(call.block, step);
    if (static_cast<std::int64_t>(types.size()) != call.q.dim(2)) {
        throw InvalidArgument(fmt::format("[generate] the profile has {} heads in layer {}, the model has {}",
                                          types.size(), call.block, call.q.dim(2)));
    }
    return types;
}

// What the memory holds for this block, or null when it is to be decided anew.
SparseMemory::Entry* remembered(SparseMemory& memory, const SparseConfig& config, const SelfAttention& call,
                                int step) {
    if (memory.blocks.size() <= static_cast<std::size_t>(call.block))
        memory.blocks.resize(static_cast<std::size_t>(call.block) + 1);
    SparseMemory::Entry& entry = memory.blocks[static_cast<std::size_t>(call.block)];
    const bool fresh = entry.step >= 0 && step >= entry.step && step - entry.step < config.mask_refresh_steps;
    return fresh ? &entry : nullptr;
}

}  // namespace

bool is_sparse(const SparseConfig* config, int block, int step) {
    if (config == nullptr || config->options.type == SparseType::none) return false;
    if (step >= 0 && (step < config->start_step || (config->end_step >= 0 && step >= config->end_step)))
        return false;
    return std::find(config->skip_layers.begin(), config->skip_layers.end(), block) ==
           config->skip_layers.end();
}

SparseReport run_sparse(const SelfAttention& call, const TransformerStep& step) {
    const SparseConfig& config = *step.sparse;
    const int index = step.context.timestep_index;
    SparseOptions options = config.options;
    options.latent_shape = call.latent;
    options.txt_len = 0;
    if (options.precision == SparsePrecision::bf16) options.quantized = call.quantized;
    const bool recognises = options.type == SparseType::rf_v1;
    if (config.profile) options.head_types = pinned_types(*config.profile, call, index);
    const bool keeps =
        step.sparse_memory != nullptr && index >= 0 && config.mask_refresh_steps > 1 && !config.profile;
    if (keeps) {
        if (const auto* entry = remembered(*step.sparse_memory, config, call, index)) {
            if (recognises) options.head_types = entry->head_types;
            if (!recognises && entry->mask.defined()) options.mask = entry->mask;
            return sparse_attention(call.q, call.k, call.v, call.o, options);
        }
        options.return_mask = !recognises;
    }
    SparseReport report = sparse_attention(call.q, call.k, call.v, call.o, options);
    if (keeps && report.dense_because.empty()) {
        step.sparse_memory->blocks[static_cast<std::size_t>(call.block)] = {index, types_of(report),
                                                                            report.mask};
        report.mask = Tensor();
    }
    return report;
}

}  // namespace aerogel
