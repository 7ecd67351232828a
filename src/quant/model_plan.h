// What becomes of each module of a model: the one place that decides, for models here and in Python. It knows
// names and shapes only; a front lists its modules, asks, and does what it is told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/quant_config.h"
#include "aerogel/quantized_linear.h"
#include "quant/float_layer.h"
#include "quant/layer_patterns.h"
#include "quant/load.h"

namespace aerogel {

/// A Linear, or what attention there is. Facts, no wishes.
struct ModelModule {
    std::string name;
    bool is_attention = false;
    std::int64_t out_features = 0, in_features = 0;      ///< of a Linear
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0;  ///< of attention; 0 = unknown
    std::vector<std::string> classes;  ///< names of its class, by which fa_layers may mean it as well
    std::int64_t same_as = -1;         ///< index of the module of which this is another name
    bool in_block = true;              ///< inside of one of the model's repeated blocks
    std::string scheme;                ///< of a Linear quantized before, else empty
    std::int64_t group_size = 0;       ///< of that
    std::string unfit;                 ///< why nothing can take its place; empty: it can
    bool kept_float32 = false;         ///< the model wants it in float32
};

struct ModelModules {
    std::string model = "the model";  ///< its class, for messages
    std::vector<ModelModule> modules;
    /// Patterns of what its family quantizes by default; of Linears nullopt: those of the repeated blocks but
    /// small ones.
    std::optional<std::string> default_layers = std::nullopt;
    std::string default_attentions = std::string(kDefaultAttentions);

    /// Of the several names of a module the first, else itself.
    std::size_t first_of(std::size_t module) const {
        const std::int64_t same = modules[module].same_as;
        return same < 0 ? module : static_cast<std::size_t>(same);
    }
};

/// Patterns of layer names; exclude wins.
struct LayerSelection {
    std::optional<std::vector<std::string>> include;  ///< nullopt: what is quantized by default
    std::vector<std::string> exclude;
};

struct ModuleDecision {
    std::size_t module = 0;  ///< index in ModelModules
    bool is_attention = false;
    /// What the module is afterwards: "W8A8_DYNAMIC", "FP8_DYNAMIC", "FLOAT".
    std::string type;
    bool quantizes = false;             ///< false: it stays as it is
    std::string why;                    ///< why it stays; empty where there is nothing to say
    std::size_t entry = 0;              ///< of the pair's layers() or attentions(), when it comes from files
    const SchemeRow* scheme = nullptr;  ///< of a Linear quantized in memory
    LayerChoices choices;
    std::optional<AttentionQuantization> attention;
};

class ModelPlan {
  public:
    ModelPlan(std::vector<ModuleDecision> decisions, std::vector<ModelModule> modules)
        : decisions_(std::move(decisions)), modules_(std::move(modules)) {}

    /// One for every Linear in the order of the modules, then one for every attention that was asked for.
    const std::vector<ModuleDecision>& decisions() const { return decisions_; }
    const ModelModule& module_of(const ModuleDecision& decision) const {
        return modules_.at(decision.module);
    }
    /// The arrays of a Linear that the plan takes from these files. InvalidArgument when they do not fit the
    /// module; further errors as QuantizedPair::read.
    QuantizedLinearWeights read(const QuantizedPair& pair, const ModuleDecision& decision) const;

  private:
    std::vector<ModuleDecision> decisions_;
    std::vector<ModelModule> modules_;
};

struct FileChoices {
    LayerSelection selection;
    /// The type to run a module by, given its name and stored type; "FLOAT" leaves it. Empty: as stored.
    std::function<std::string(const std::string& name, const std::string& stored, bool is_attention)> type_of;
};

/// Why each module stays as it is ("" = chosen), for Linears that a scheme in memory would take; attention is
/// never chosen. InvalidArgument for a pattern that matches nothing and when nothing is left.
std::vector<std::string> why_not_chosen(const ModelModules& model, const LayerSelection& selection);

/// InvalidArgument when the description names a module that the model lacks; rotations and scales of
/// attention are read and checked.
ModelPlan plan_from_files(const ModelModules& model, const QuantizedPair& pair, const FileChoices& choices);

/// Errors as quantize(model, config).
ModelPlan plan_in_memory(const ModelModules& model, const OnlineQuantConfig& config);

}  // namespace aerogel
