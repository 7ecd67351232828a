// aerogel dequantize DESCRIPTION -o FILE: a quantized pair back to float tensors.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "aerogel/pipeline.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "core/text.h"
#include "quant/load.h"
#include "quant/restore.h"

namespace aerogel::cli {
namespace {

struct DequantizeFlags {
    std::string description;
    std::string output;
    int rank = -1;
    bool json = false;
};

void run_dequantize(const DequantizeFlags& flags) {
    const QuantizedPair pair = QuantizedPair::open(flags.description, flags.rank);
    check_output_file("dequantize", flags.output, {pair.path(), pair.weights().path()});
    std::size_t layers = 0;
    {
        std::unique_ptr<Progress> progress;
        RestoreOptions options;
        options.progress = [&](std::size_t done, std::size_t total, const std::string& tensor) {
            if (interrupted()) throw Cancelled("[dequantize] interrupted");
            if (!progress)
                progress = std::make_unique<Progress>("dequantize", static_cast<std::int64_t>(total));
            progress->update(static_cast<std::int64_t>(done), tensor);
        };
        layers = restore_floats(pair, flags.output, options);
    }
    if (flags.json) {
        const nlohmann::ordered_json json = {
            {"description", pair.path().string()}, {"output", flags.output}, {"layers", layers}};
        print_json(json);
    } else {
        print_text(fmt::format("{} dequantized\n{}", counted(layers, "layer"), flags.output));
    }
}

}  // namespace

void add_dequantize(CLI::App& app) {
    auto* command = app.add_subcommand(
        "dequantize", "Turn a quantized pair back into float tensors under their original names");
    auto flags = std::make_shared<DequantizeFlags>();
    command->add_option("DESCRIPTION", flags->description, "quant_model_description_*.json, or its folder")
        ->required();
    command->add_option("-o,--output", flags->output, "The .safetensors file to write")->required();
    add_rank_flag(*command, flags->rank);
    command->add_flag("--json", flags->json, "Print a report as JSON");
    command->footer(
        "Examples:\n"
        "  aerogel dequantize quantized/quant_model_description_w8a8_dynamic.json -o float.safetensors\n"
        "  aerogel compare examples/shapes_dit/transformer/diffusion_pytorch_model.safetensors "
        "float.safetensors");
    command->callback([flags] { run_dequantize(*flags); });
}

}  // namespace aerogel::cli
