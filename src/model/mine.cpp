// Running the pipeline with a hook on every self-attention.
#include "model/mine.h"

#include <utility>

#include "aerogel/error.h"
#include "core/views.h"

namespace aerogel {
namespace {

// The video's own tokens of [batch, tokens, heads, head_dim].
TensorView of_video(const TensorView& all, const AttentionInput& at) {
    if (at.text_len == 0) return all;
    const Shape strides = strides_of(all);
    Shape shape = all.shape;
    shape[1] -= at.text_len;
    return part_of(all, at.text_first ? at.text_len * strides[1] : 0, std::move(shape), strides);
}

}  // namespace

AttentionMiner mine(const Pipeline& pipeline, const MineOptions& options) {
    if (options.captions.empty()) throw InvalidArgument("[mine] there are no captions to make videos of");
    GenerateOptions generate;
    generate.sampling = options.sampling;
    generate = pipeline.with_defaults(std::move(generate));
    const TransformerConfig& config = pipeline.transformer_config();
    const int steps = *generate.sampling.steps;
    AttentionMiner miner(options.mining, static_cast<int>(config.num_layers),
                         static_cast<int>(config.num_attention_heads), steps);
    const std::int64_t frames =
        *generate.sampling.frames / config.patch_size[0];  // fewer: the first frame alone
    generate.on_attention_input = [&](int step, const AttentionInput& at) {
        if (!at.is_self || at.latent.frames != frames) return;
        miner.observe(at.block, step, of_video(at.q, at), of_video(at.k, at), at.latent);
    };
    const int total = static_cast<int>(options.captions.size()) * steps;
    for (std::size_t i = 0; i < options.captions.size(); ++i) {
        generate.prompt = options.captions[i];
        generate.sampling.seed = options.sampling.seed + i;
        const int done = static_cast<int>(i) * steps;
        generate.progress = [&, done](int step, int, double) {
            return !options.progress || options.progress(done + step, total);
        };
        pipeline.generate(generate);
    }
    return miner;
}

}  // namespace aerogel
