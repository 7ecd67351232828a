// The streaming writer: announces every tensor, then quantizes and writes one layer after the other.
#include "quant/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/version.h"
#include "core/finite.h"
#include "core/hash.h"
#include "core/paths.h"
#include "core/resumable_file.h"
#include "core/safetensors_header.h"
#include "core/text.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/attention.h"
#include "quant/export_layer.h"
#include "quant/pair_switch.h"

namespace aerogel {

namespace fs = std::filesystem;
namespace {

// The weight file of an export while it is written: units of tensors (a layer, or one copied tensor) at their
// places, each noted with a checksum once it is finished, so that another run can go on. A note is "UNIT
// CHECKSUM ERROR": a decimal number and two bit patterns in hexadecimal.
class ExportFile {
  public:
    using Units = std::vector<std::vector<TensorInfo>>;

    /// All tensors by unit, in the order of the header. Locks the file; begin() comes first then, its `key`
    /// see ResumableFile. InvalidArgument, IoError.
    ExportFile(const std::filesystem::path& path, const Units& units);
    void begin(const std::string& key);

    /// The error noted for a unit that an earlier run finished and whose bytes are as it left them.
    std::optional<double> finished(std::size_t unit) const;
    /// Writes the tensors of a unit as announced, and notes it with that error.
    void write(std::size_t unit, const std::vector<Tensor>& tensors, double error);
    /// Gives the file its final name; forget() then ends the export.
    void commit() { file_->commit(); }
    bool committed() const { return file_->committed(); }
    void forget() { file_->forget(); }

  private:
    struct Note {
        std::uint64_t checksum = 0;
        double error = 0.0;
    };
    void read_notes();

    std::vector<std::size_t> first_entry_;  // of each unit, and the number of all
    std::vector<SafetensorsEntry> entries_;
    std::uint64_t data_begin_ = 0;
    std::string header_;
    std::optional<ResumableFile> file_;
    std::map<std::size_t, Note> notes_;
};

constexpr std::size_t kPiece = std::size_t{1} << 24;  // what is hashed, written or read at a time

// Takes one number and the space behind it from the front of `text`.
std::optional<std::uint64_t> take_number(std::string_view& text, int base) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc{}) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (!text.empty()) text.remove_prefix(1);
    return value;
}

// Every piece continues the hash of those before it.
std::uint64_t add_to_hash(std::uint64_t hash, const void* data, std::size_t size) {
    return hash_bytes({static_cast<const std::byte*>(data), size}, hash);
}

ExportFile::ExportFile(const std::filesystem::path& path, const Units& units) {
    std::vector<TensorInfo> tensors;
    for (const auto& unit : units) {
        first_entry_.push_back(tensors.size());
        tensors.insert(tensors.end(), unit.begin(), unit.end());
    }
    first_entry_.push_back(tensors.size());
    entries_ = place_safetensors(tensors, "[quantize] " + path.string());
    header_ = encode_safetensors_header(entries_, {});
    data_begin_ = header_.size();
    file_.emplace(path);
}

void ExportFile::begin(const std::string& key) {
    file_->begin(key, data_begin_ + data_size(entries_));
    file_->write_at(0, header_.data(), header_.size());
    read_notes();
}

void ExportFile::read_notes() {
    for (const std::string& line : file_->notes()) {
        std::string_view rest = line;
        const auto unit = take_number(rest, 10);
        const auto checksum = take_number(rest, 16);
        const auto error = take_number(rest, 16);
        if (!unit || !checksum || !error || *unit + 1 >= first_entry_.size()) continue;
        notes_[static_cast<std::size_t>(*unit)] = {*checksum, std::bit_cast<double>(*error)};
    }
}

std::optional<double> ExportFile::finished(std::size_t unit) const {
    const auto note = notes_.find(unit);
    if (note == notes_.end()) return std::nullopt;
    std::uint64_t checksum = 0;
    std::vector<std::byte> piece;
    for (std::size_t i = first_entry_[unit]; i < first_entry_[unit + 1]; ++i) {
        const SafetensorsEntry& entry = entries_[i];
        for (std::uint64_t at = entry.begin; at < entry.end; at += kPiece) {
            piece.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, entry.end - at)));
            file_->read_at(data_begin_ + at, piece.data(), piece.size());
            checksum = add_to_hash(checksum, piece.data(), piece.size());
        }
    }
    if (checksum != note->second.checksum) return std::nullopt;
    return note->second.error;
}

void ExportFile::write(std::size_t unit, const std::vector<Tensor>& tensors, double error) {
    std::uint64_t checksum = 0;
    for (std::size_t i = first_entry_[unit]; i < first_entry_[unit + 1]; ++i) {
        const SafetensorsEntry& entry = entries_[i];
        const Tensor& tensor = tensors.at(i - first_entry_[unit]);
        if (tensor.dtype() != entry.info.dtype || tensor.shape() != entry.info.shape) {
            throw InvalidArgument(fmt::format("[quantize] {} was announced as {}{}, got {}", entry.info.name,
                                              to_string(entry.info.dtype), to_string(entry.info.shape),
                                              tensor.describe()));
        }
        const auto* bytes = static_cast<const std::byte*>(tensor.data());
        for (std::size_t at = 0; at < tensor.bytes(); at += kPiece) {
            const std::size_t size = std::min(kPiece, tensor.bytes() - at);
            checksum = add_to_hash(checksum, bytes + at, size);
            file_->write_at(data_begin_ + entry.begin + at, bytes + at, size);
        }
        file_->start_writing(data_begin_ + entry.begin, tensor.bytes());
    }
    file_->note(fmt::format("{} {:016x} {:016x}", unit, checksum, std::bit_cast<std::uint64_t>(error)));
}

constexpr std::string_view kWeight = ".weight", kBias = ".bias";

// The layouts that have a form for each scheme: W8A8_TIMESTEP is v0's, schemes with float32 scales are v1's.
PairLayout choose_layout(const LayerPlan& plan, const std::optional<PairLayout>& wanted) {
    if (wanted == PairLayout::comfy) return *wanted;
    const SchemeRow *only_v0 = nullptr, *only_v1 = nullptr;
    for (const auto& [name, options] : plan) {
        if (options.scheme->per_step) only_v0 = options.scheme;
        if (options.scheme->float32) only_v1 = options.scheme;
    }
    if (only_v0 != nullptr && only_v1 != nullptr) {
        throw InvalidArgument(
            fmt::format("[quantize] no layout holds both {} (v0) and {} (v1)", only_v0->name, only_v1->name));
    }
    const PairLayout layout = wanted.value_or(only_v0 != nullptr ? PairLayout::v0 : PairLayout::v1);
    const SchemeRow* missing = layout == PairLayout::v0 ? only_v1 : only_v0;
    if (missing != nullptr) {
        const bool v0 = layout == PairLayout::v0;
        throw InvalidArgument(fmt::format("[quantize] layout {} has no form of {}: choose {}",
                                          v0 ? "v0" : "v1", missing->name, v0 ? "v1" : "v0"));
    }
    return layout;
}

// Copies of other models may have the same sizes and times.
std::uint64_t sample_of(const Tensor& tensor) {
    constexpr std::size_t kSample = 4096;
    const std::size_t size = std::min(kSample, tensor.bytes());
    const auto* middle = static_cast<const std::byte*>(tensor.data()) + (tensor.bytes() - size) / 2;
    return hash_bytes({middle, size});
}

std::string model_text(const WeightFile& model) {
    std::string text;
    for (const auto& file : model.files()) {
        std::error_code error;  // a file that is gone counts as another
        const auto size = std::filesystem::file_size(file, error);
        const auto time = std::filesystem::last_write_time(file, error).time_since_epoch().count();
        text += fmt::format("file {} {}\n", size, time);
    }
    for (const auto& name : model.names()) {
        const TensorInfo& info = model.info(name);
        text += fmt::format("tensor {} {}{} {:x}\n", name, to_string(info.dtype), to_string(info.shape),
                            sample_of(model.tensor(name)));
        model.release(name);
    }
    return text;
}

std::string calibration_text(const CalibrationStats& stats, const std::string& layer) {
    std::string text = fmt::format("steps {}", stats.steps());
    for (const InputRange& range : stats.ranges_by_step(layer)) {
        text += fmt::format(" {:x} {:x}", std::bit_cast<std::uint32_t>(range.min),
                            std::bit_cast<std::uint32_t>(range.max));
    }
    return text + "\n";
}

std::string tensor_text(const Tensor& tensor) {
    return fmt::format("{:x}\n", hash_bytes({static_cast<const std::byte*>(tensor.data()), tensor.bytes()}));
}

// What the bytes of an export depend on, as one line: program version, layout, plan, calibration, attention,
// and the identity of the model. Two exports with the same key write the same file.
std::string export_key(const WeightFile& model, const LayerPlan& plan, PairLayout layout,
                       const ExportOptions& options) {
    std::string text = fmt::format("{} v{}\n", kVersion, static_cast<int>(layout));
    const CalibrationStats* calibration = options.calibration;
    for (const auto& [name, how] : plan) {
        text += fmt::format("layer {} {} {} {} {} {} {} {} {} {}\n", name, how.scheme->name, how.algorithm,
                            how.smoothing, how.weight.group_size, how.weight.symmetric, how.packed,
                            how.rotation_block, to_string(how.rotation_kind), how.low_rank);
        if (how.scheme->needs_calibration) text += calibration_text(*calibration, name);
        if (needs_inputs(*how.scheme, how)) text += tensor_text(calibration->inputs(name).rows);
    }
    for (const auto& [name, attention] : options.attentions) {
        text += fmt::format("attention {} {}\n", name, attention.quant_type);
        for (const auto& [tensor, value] : attention_tensors(attention)) text += tensor_text(value);
    }
    return fmt::format("{:016x}", hash_text(text + model_text(model)));
}

// The file of layout comfy that the caller names, with the rank before its ending.
fs::path single_file(const fs::path& path, int rank) {
    if (rank < 0) return path;
    return path.parent_path() / fmt::format("{}_{}{}", path.stem().string(), rank, path.extension().string());
}

// Transforms of fewer columns ComfyUI's kernels do not have: such layers stay float.
constexpr std::int64_t kSmallestConvrot = 16;

void leave_unrotatable(const WeightFile& model, LayerPlan& plan, std::vector<std::string>& notes) {
    std::erase_if(plan, [&](const auto& layer) {
        const auto& [name, how] = layer;
        const std::string weight = name + std::string(kWeight);
        if (how.rotation_kind != RotationKind::convrot || how.rotation_block != -1 ||
            !model.contains(weight) || model.info(weight).shape.size() != 2)
            return false;
        const std::int64_t columns = model.info(weight).shape[1];
        if (rotation_block(columns, {how.rotation_kind, -1}) >= kSmallestConvrot) return false;
        notes.push_back(fmt::format("{} stays float: no power of four from {} on divides its {} columns",
                                    name, kSmallestConvrot, columns));
        return true;
    });
    if (plan.empty()) throw InvalidArgument("[quantize] there is no layer to quantize: " + notes.front());
}

// The plan with kSchemeGroups settled. Packed groups take rows in pairs.
LayerPlan settled_plan(const WeightFile& model, LayerPlan plan, PairLayout layout) {
    for (auto& [name, how] : plan) {
        const std::string weight = name + std::string(kWeight);
        std::int64_t& group = how.weight.group_size;
        if (group != kSchemeGroups || !model.contains(weight)) continue;
        const Shape& shape = model.info(weight).shape;
        const bool possible =
            shape.size() == 2 && layout == PairLayout::v1 && !(how.packed && shape[0] % 2 != 0);
        group = possible ? group_size_of(*how.scheme, group, shape[1]) : 0;
    }
    return plan;
}

class Exporter {
  public:
    Exporter(const WeightFile& model, const LayerPlan& plan, const ExportOptions& options)
        : model_(model), options_(options) {
        if (plan.empty()) throw InvalidArgument("[quantize] there is no layer to quantize");
        report_.layout = choose_layout(plan, options.layout);
        plan_ = settled_plan(model, plan, report_.layout);
        if (report_.layout == PairLayout::comfy) leave_unrotatable(model, plan_, report_.notes);
        check_layers();
        announce();
        const std::string& type = description_.model_quant_type;
        if (report_.layout == PairLayout::comfy && has_extension(options.folder, ".safetensors")) {
            report_.weights = single_file(options.folder, options.rank);
            return;
        }
        if (report_.layout != PairLayout::comfy)
            report_.description = options.folder / description_file_name(type, options.rank);
        report_.weights = options.folder / weight_file_name(type, options.rank);
    }

    ExportReport run() {
        check_sources();
        // Tensors in memory may change between two runs without a trace.
        const bool goes_on = !model_.files().empty();
        const std::string key = goes_on ? export_key(model_, plan_, report_.layout, options_) : "";
        if (report_.weights.has_parent_path()) make_folders(report_.weights.parent_path());
        ExportFile file(report_.weights, units_);
        finish_earlier_switch();
        file.begin(key);
        try {
            write_units(file);
            publish(file);
        } catch (const InvalidArgument&) {
            file.forget();  // the model is not as it should be: nothing to go on with
            throw;
        } catch (...) {
            if (!goes_on) file.forget();
            throw;
        }
        return std::move(report_);
    }

  private:
    void check_sources() const {
        for (const fs::path& file : model_.files()) {
            if (!is_same_file(file, report_.weights)) continue;
            throw InvalidArgument(
                fmt::format("[quantize] the output {} is also an input", in_quotes(file.string())));
        }
    }

    // See pair_switch.h. What fails before the weights have their name leaves the old pair alone.
    void publish(ExportFile& file) const {
        if (report_.description.empty()) {
            file.commit();
            return file.forget();
        }
        const fs::path next = next_description_path(report_.description);
        try {
            description_.write(next, report_.layout);
            file.commit();
        } catch (...) {
            if (!file.committed()) remove_file(next);
            throw;
        }
        rename_file(next, report_.description);
        sync_folder_of(report_.description);
        file.forget();
    }

    // Of a run that was killed between the two names, or before the first.
    void finish_earlier_switch() const {
        if (report_.description.empty()) return;
        const fs::path next = next_description_path(report_.description);
        if (is_half_switched(report_.description, report_.weights)) {
            rename_file(next, report_.description);
        } else {
            remove_file(next);
        }
    }

    void check_layers() const {
        const auto linears = linear_layers(model_);
        for (const auto& [name, how] : plan_) {
            if (std::find(linears.begin(), linears.end(), name) == linears.end()) {
                throw InvalidArgument(fmt::format("[quantize] {} has no Linear '{}'{}",
                                                  model_.path().string(), name, suggestion(name, linears)));
            }
            check_form(form_of(name));
        }
    }

    // The planned layer whose weight (or bias) this tensor is, or an empty string.
    std::string layer_of(const std::string& tensor, std::string_view ending) const {
        if (!tensor.ends_with(ending)) return {};
        const std::string layer = tensor.substr(0, tensor.size() - ending.size());
        return plan_.contains(layer) ? layer : "";
    }

    std::optional<std::string> bias_of(const std::string& layer) const {
        const std::string bias = layer + std::string(kBias);
        return model_.contains(bias) ? std::optional(bias) : std::nullopt;
    }

    StoredForm form_of(const std::string& layer) const {
        const auto bias = bias_of(layer);
        const TensorInfo& weight = model_.info(layer + std::string(kWeight));
        StoredForm form{weight, std::nullopt, plan_.at(layer), report_.layout, options_.calibration};
        if (bias) form.bias = model_.info(*bias);
        return form;
    }

    void announce() {
        for (const auto& name : model_.names()) {
            const TensorInfo& info = model_.info(name);
            report_.bytes_before += model_.stored_bytes(name);
            if (const auto layer = layer_of(name, kWeight); !layer.empty()) {
                sources_.push_back(name);
                description_.model_quant_type = plan_.at(layer).quant_type();
                std::vector<TensorInfo> unit;
                for (StoredTensor& tensor : stored_tensors(form_of(layer))) {
                    description_.entries.emplace_back(
                        tensor.info.name, tensor.is_float ? "FLOAT" : description_.model_quant_type);
                    unit.push_back(std::move(tensor.info));
                }
                units_.push_back(std::move(unit));
            } else if (layer_of(name, kBias).empty()) {
                sources_.push_back(name);
                units_.push_back({info});
                description_.entries.emplace_back(name, "FLOAT");
            }
        }
        announce_attentions();
        for (const auto& unit : units_) {
            for (const TensorInfo& info : unit) report_.bytes_after += info.bytes();
        }
    }

    // One unit behind those of the model, without a source.
    void announce_attentions() {
        if (report_.layout == PairLayout::comfy && !options_.attentions.empty())
            throw InvalidArgument("[quantize] layout comfy has no form of quantized attention: choose v1");
        std::vector<TensorInfo> unit;
        for (const auto& [name, attention] : options_.attentions) {
            for (const auto& [tensor, value] : attention_tensors(attention)) {
                const std::string type = tensor.ends_with("_rot") ? "FLOAT" : "FAQuant";
                description_.entries.emplace_back(name + "." + tensor, type);
                unit.push_back({name + "." + tensor, value.dtype(), value.shape()});
            }
            if (!attention.scales) {
                description_.entries.emplace_back(name + ".quant_type", attention.quant_type);
            }
        }
        if (!unit.empty()) units_.push_back(std::move(unit));
    }

    void write_attentions(ExportFile& file) const {
        if (units_.size() == sources_.size() || file.finished(sources_.size())) return;
        std::vector<Tensor> tensors;
        for (const auto& [name, attention] : options_.attentions) {
            for (const auto& [tensor, value] : attention_tensors(attention)) tensors.push_back(value);
        }
        file.write(sources_.size(), tensors, 0.0);
    }

    void write_layer(ExportFile& file, std::size_t unit, const std::string& layer) {
        const StoredForm form = form_of(layer);
        std::optional<double> error = file.finished(unit);
        if (error) {
            report_.bytes_resumed += model_.stored_bytes(form.weight.name);
        } else {
            const FloatLayer floats{layer, model_.tensor(form.weight.name),
                                    form.bias ? model_.tensor(form.bias->name) : Tensor(), form.inputs(),
                                    model_.quantized(form.weight.name)};
            const StoredLayer stored = quantized(form, floats);
            model_.check_intact();
            file.write(unit, stored.tensors, stored.relative_error);
            error = stored.relative_error;
        }
        report_.layers.push_back({layer, form.options.quant_type(), form.weight.shape[0],
                                  form.weight.shape[1], form.options.weight.group_size, *error});
    }

    StoredLayer quantized(const StoredForm& form, const FloatLayer& layer) const {
        try {
            return quantize_layer(form, layer);
        } catch (const InvalidArgument& error) {
            throw InvalidArgument(fmt::format("{} ({})", error.what(), model_.path().string()));
        }
    }

    void copy_tensor(ExportFile& file, std::size_t unit) {
        const std::string& name = sources_[unit];
        if (file.finished(unit)) {
            report_.bytes_resumed += model_.stored_bytes(name);
        } else {
            const Tensor tensor = model_.tensor(name);
            check_finite(name, tensor);
            file.write(unit, {tensor}, 0.0);
        }
    }

    void check_finite(const std::string& name, const Tensor& tensor) const {
        const std::string problem = finite_problem(name, tensor);
        if (problem.empty()) return;
        throw InvalidArgument(fmt::format("[quantize] {}: {}", model_.path().string(), problem));
    }

    // Memory holds the tensors of one unit; the next one is read from the disk meanwhile.
    void write_units(ExportFile& file) {
        std::size_t done = 0;
        for (std::size_t unit = 0; unit < sources_.size(); ++unit) {
            const std::string& name = sources_[unit];
            if (unit + 1 < sources_.size()) model_.prefetch(sources_[unit + 1]);
            done += model_.stored_bytes(name);
            if (const auto layer = layer_of(name, kWeight); !layer.empty()) {
                write_layer(file, unit, layer);
                if (const auto bias = bias_of(layer)) done += model_.stored_bytes(*bias);
            } else {
                copy_tensor(file, unit);
            }
            model_.check_intact();
            model_.release(name);
            if (options_.progress) options_.progress(done, report_.bytes_before, name);
        }
        write_attentions(file);
    }

    const WeightFile& model_;
    LayerPlan plan_;
    const ExportOptions& options_;
    QuantDescription description_;
    std::vector<std::string> sources_;  // of each unit but that of attention: its tensor in the checkpoint
    ExportFile::Units units_;
    ExportReport report_;
};

}  // namespace

std::vector<std::string> linear_layers(const WeightFile& model) {
    std::vector<std::string> names;
    for (const auto& name : model.names()) {
        const TensorInfo& info = model.info(name);
        if (name.ends_with(kWeight) && info.shape.size() == 2 && is_model_dtype(info.dtype)) {
            names.push_back(name.substr(0, name.size() - kWeight.size()));
        }
    }
    return names;
}

LayerOptions options_of_scheme(std::string_view name, LayerOptions choices) {
    choices.scheme = &scheme_with_choices(name, choices);
    check_choices(*choices.scheme, choices);
    return choices;
}

LayerPlan uniform_plan(const std::vector<std::string>& layers, const LayerOptions& options) {
    LayerPlan plan;
    for (const std::string& layer : layers) plan[layer] = options;
    return plan;
}

ExportReport export_quantized(const WeightFile& model, const LayerPlan& plan, const ExportOptions& options) {
    return Exporter(model, plan, options).run();
}

}  // namespace aerogel
