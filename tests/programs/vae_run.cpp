// A VAE for tests/model: vae_run FOLDER (decode|encode) IN.safetensors OUT.safetensors [TILE CHUNK STOP_AT].
// IN holds x, OUT gets y. The progress function says stop when this share is done. With FOLDER alone it
// prints channels, factors and bytes of the weights. With VAE_RUN_HIDDEN in the environment it runs on memory
// that the host must not touch.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "model/vae/vae.h"
#include "ops/hidden_machine.h"

namespace {

using namespace aerogel;

void run(const Vae& vae, int argc, char** argv) {
    const Tensor x = SafetensorsFile::open(argv[3]).tensor("x").to(vae.device());
    VaeOptions options;
    if (argc > 5) options.tile = std::atoll(argv[5]);
    if (argc > 6) options.chunk = std::atoll(argv[6]);
    const double stop = argc > 7 ? std::atof(argv[7]) : 2.0;
    double before = 0.0;
    options.progress = [&](double done) {
        if (done < before || done > 1.0)
            throw Error("progress went from " + std::to_string(before) + " to " + std::to_string(done));
        before = done;
        return done < stop;
    };
    const Tensor y = argv[2] == std::string("decode") ? vae.decode(x, options) : vae.encode(x, options);
    if (before != 1.0) throw Error("progress ended at " + std::to_string(before));
    save_safetensors(argv[4], {{"y", y.to(Device::cpu)}});
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 2 && argc < 5) throw InvalidArgument("usage: vae_run FOLDER [decode|encode IN OUT]");
        std::optional<testing::HiddenDevice> hidden;
        if (std::getenv("VAE_RUN_HIDDEN") != nullptr) hidden.emplace();
        const auto vae = Vae::load(argv[1], hidden ? testing::HiddenDevice::kDevice : Device::cpu);
        if (argc > 2) {
            run(*vae, argc, argv);
            return 0;
        }
        const VaeShape& shape = vae->shape();
        std::printf("%lld %lld %lld %zu\n", static_cast<long long>(shape.channels),
                    static_cast<long long>(shape.spatial_factor),
                    static_cast<long long>(shape.temporal_factor), vae->weight_bytes());
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
