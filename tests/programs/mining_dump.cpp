// Attention of one layer, mined, for tests/sparse: mining_dump REQUEST.json INPUTS.safetensors. INPUTS holds
// q0, k0, q1 ... of steps 0, 1 ..., f32 [batch, tokens, heads, head_dim]. Prints the profile's spans, curves
// and pictures.
#include <cstdio>
#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "sparse/mining.h"

namespace {

using nlohmann::json;

json head_json(const aerogel::AttentionMiner& miner, int head) {
    json result;
    for (const std::string_view type : aerogel::mined_types()) {
        const std::string name(type);
        for (const aerogel::MaskScore& score : miner.curve(0, head, type))
            result["curves"][name].push_back({score.recall, score.density});
        for (int step = 0; step < miner.steps(); ++step)
            result["recall"][name].push_back(miner.recall(0, head, step, type));
    }
    result["picture"] = miner.picture(0, head);
    return result;
}

void run(char** argv) {
    std::ifstream file(argv[1]);
    const json request = json::parse(file);
    const auto inputs = aerogel::SafetensorsFile::open(argv[2]);
    aerogel::MiningOptions options;
    options.pattern.sparsity = request.at("sparsity");
    options.pattern.block_size = request.at("block_size");
    options.pattern.protect_first_frame = request.at("protect_first_frame");
    options.pattern.min_recall = request.at("min_recall");
    options.by_step = request.at("by_step");
    const auto latent = request.at("latent_shape").get<std::vector<std::int64_t>>();
    const int steps = request.at("steps");
    const auto heads = static_cast<int>(inputs.tensor("q0").dim(2));
    aerogel::AttentionMiner miner(options, 1, heads, steps);
    for (int step = 0; step < steps; ++step) {
        miner.observe(0, step, inputs.tensor("q" + std::to_string(step)),
                      inputs.tensor("k" + std::to_string(step)), {latent.at(0), latent.at(1), latent.at(2)});
    }
    json result;
    for (int head = 0; head < heads; ++head) result["heads"].push_back(head_json(miner, head));
    for (const std::string_view type : aerogel::mined_types())
        result["masks"][std::string(type)] = miner.mask_picture(type);
    miner.profile().write(request.at("profile").get<std::string>());
    std::printf("%s\n", result.dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 3) throw aerogel::InvalidArgument("usage: mining_dump REQUEST INPUTS");
        run(argv);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
