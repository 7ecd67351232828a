// The streaming writer: announces every tensor, then quantizes and writes one layer after the other.
#include "quant/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <system_error>
#include <utility>

#include "aerogel/description.h"
#include "aerogel/error.h"
#include "core/text.h"
#include "formats/format.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/export_layer.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kWeight = ".weight", kBias = ".bias";

std::size_t bytes_of(const TensorInfo& info) {
    return static_cast<std::size_t>(element_count(info.shape)) * size_of(info.dtype);
}

class Exporter {
  public:
    Exporter(const SafetensorsFile& model, const std::vector<std::string>& layers,
             const ExportOptions& options)
        : model_(model),
          options_(options),
          quant_type_(quant_type_of(*options.scheme, options)),
          layers_(layers.begin(), layers.end()) {
        check();
        report_.quant_type = quant_type_;
        report_.description = options.folder / description_file_name(quant_type_, options.rank);
        report_.weights = options.folder / weight_file_name(quant_type_, options.rank);
    }

    ExportReport run() {
        announce();
        make_folder();
        SafetensorsWriter writer(report_.weights, announced_);
        write_tensors(writer);
        // A description never stands beside weights of another export, not even after a crash.
        std::error_code ignored;
        fs::remove(report_.description, ignored);
        writer.finish();
        try {
            description_.write(report_.description);
        } catch (...) {
            fs::remove(report_.weights, ignored);
            throw;
        }
        return std::move(report_);
    }

  private:
    void make_folder() const {
        std::error_code error;
        fs::create_directories(options_.folder, error);
        if (error) {
            throw IoError(fmt::format("[quantize] cannot make the folder {}: {}", options_.folder.string(),
                                      error.message()));
        }
    }

    void check() const {
        check_choices(*options_.scheme, options_);
        check_packing();
        if (options_.scheme->needs_calibration && options_.calibration == nullptr) {
            throw InvalidArgument(fmt::format("[quantize] {} needs calibration", options_.scheme->name));
        }
        const auto linears = linear_layers(model_);
        for (const auto& name : layers_) {
            if (std::find(linears.begin(), linears.end(), name) == linears.end()) {
                throw InvalidArgument(fmt::format("[quantize] {} has no Linear '{}'{}",
                                                  model_.path().string(), name, suggestion(name, linears)));
            }
            if (options_.scheme->needs_calibration) options_.calibration->range(name);
            check_shape(name);
            check_transforms(name);
        }
    }

    void check_packing() const {
        const SchemeRow& scheme = *options_.scheme;
        if (options_.packed && scheme.weight != Format::int4) {
            throw InvalidArgument(fmt::format("[quantize] packing is for int4 weights, {} has {}",
                                              scheme.name, to_string(scheme.weight)));
        }
    }

    // Groups divide the columns, and pairs in one byte come out even.
    void check_shape(const std::string& name) const {
        const Shape& shape = model_.info(name + std::string(kWeight)).shape;
        const std::int64_t group = options_.weight.group_size;
        if (group != 0 && shape[1] % group != 0) {
            throw InvalidArgument(
                fmt::format("[quantize] the {} columns of {} {} are no multiple of the group size {}",
                            shape[1], name, to_string(shape), group));
        }
        const Format format = options_.scheme->weight;
        const bool rows = options_.packed && group != 0;
        const bool columns =
            !rows && (options_.packed || format == Format::mxfp4 || format == Format::mxfp4_dual);
        if ((rows && shape[0] % 2 != 0) || (columns && shape[1] % 2 != 0)) {
            throw InvalidArgument(fmt::format("[quantize] {} {} cannot be packed: it has an odd number of {}",
                                              name, to_string(shape), rows ? "rows" : "columns"));
        }
    }

    // Files are announced before the first weight is taken apart.
    void check_transforms(const std::string& name) const {
        const Shape& shape = model_.info(name + std::string(kWeight)).shape;
        const std::int64_t block = options_.rotation_block, largest = std::min(shape[0], shape[1]);
        if (block != 0) rotation_block(shape[1], block);
        if (options_.low_rank > largest) {
            throw InvalidArgument(fmt::format("[quantize] the rank must be at most {} for {} {}, got {}",
                                              largest, name, to_string(shape), options_.low_rank));
        }
    }

    // The layer whose weight (or bias) this tensor is, or an empty string.
    std::string layer_of(const std::string& tensor, std::string_view ending) const {
        if (!tensor.ends_with(ending)) return {};
        const std::string layer = tensor.substr(0, tensor.size() - ending.size());
        return layers_.contains(layer) ? layer : "";
    }

    FloatLayer float_layer(const std::string& name) const {
        const std::string bias = name + std::string(kBias);
        return {name, model_.tensor(name + std::string(kWeight)),
                model_.contains(bias) ? model_.tensor(bias) : Tensor()};
    }

    void announce_layer(const FloatLayer& layer) {
        for (TensorInfo& info : stored_tensors(layer, options_)) {
            description_.entries.emplace_back(info.name, is_float_tensor(info.name) ? "FLOAT" : quant_type_);
            announced_.push_back(std::move(info));
        }
    }

    void announce() {
        description_.model_quant_type = quant_type_;
        for (const auto& name : model_.names()) {
            report_.bytes_before += bytes_of(model_.info(name));
            if (const auto layer = layer_of(name, kWeight); !layer.empty()) {
                announce_layer(float_layer(layer));
            } else if (layer_of(name, kBias).empty()) {
                description_.entries.emplace_back(name, "FLOAT");
                announced_.push_back(model_.info(name));
            }
        }
        for (const TensorInfo& info : announced_) report_.bytes_after += bytes_of(info);
    }

    void write_layer(SafetensorsWriter& writer, const FloatLayer& layer) {
        const std::vector<TensorInfo> infos = stored_tensors(layer, options_);
        const StoredLayer stored = quantize_layer(layer, options_);
        for (std::size_t i = 0; i < infos.size(); ++i) {
            writer.write(infos[i].name, stored.tensors[i]);
        }
        report_.layers.push_back(
            {layer.name, layer.weight.dim(0), layer.weight.dim(1), stored.relative_error});
    }

    void write_tensors(SafetensorsWriter& writer) {
        std::size_t done = 0;
        for (const auto& name : model_.names()) {
            if (const auto layer = layer_of(name, kWeight); !layer.empty()) {
                write_layer(writer, float_layer(layer));
            } else if (layer_of(name, kBias).empty()) {
                writer.write(name, model_.tensor(name));
            }
            done += bytes_of(model_.info(name));
            if (options_.progress) options_.progress(done, report_.bytes_before, name);
        }
    }

    const SafetensorsFile& model_;
    const ExportOptions& options_;
    std::string quant_type_;
    std::set<std::string> layers_;
    QuantDescription description_;
    std::vector<TensorInfo> announced_;
    ExportReport report_;
};

}  // namespace

std::vector<std::string> linear_layers(const SafetensorsFile& model) {
    std::vector<std::string> names;
    for (const auto& name : model.names()) {
        const TensorInfo& info = model.info(name);
        if (name.ends_with(kWeight) && info.shape.size() == 2 && is_model_dtype(info.dtype)) {
            names.push_back(name.substr(0, name.size() - kWeight.size()));
        }
    }
    return names;
}

ExportReport export_quantized(const SafetensorsFile& model, const std::vector<std::string>& layers,
                              const ExportOptions& options) {
    return Exporter(model, layers, options).run();
}

}  // namespace aerogel
