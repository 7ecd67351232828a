// Running the pipeline with a hook on every self-attention.
#include "model/mine.h"

#include "aerogel/error.h"

namespace aerogel {

AttentionMiner mine(const Pipeline& pipeline, const MineOptions& options) {
    if (options.captions.empty()) throw InvalidArgument("[mine] there are no captions to make videos of");
    GenerateOptions generate;
    generate.sampling = options.sampling;
    generate = pipeline.with_defaults(std::move(generate));
    const TransformerConfig& config = pipeline.transformer().config();
    const int steps = *generate.sampling.steps;
    AttentionMiner miner(options.mining, static_cast<int>(config.num_layers),
                         static_cast<int>(config.num_attention_heads), steps);
    const std::int64_t frames =
        *generate.sampling.frames / config.patch_size[0];  // fewer: the first frame alone
    generate.on_attention_input = [&](int step, const AttentionInput& at) {
        if (at.is_self && at.latent.frames == frames) miner.observe(at.block, step, at.q, at.k, at.latent);
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
