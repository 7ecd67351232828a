// A pipeline folder with a tiny random Wan model and caption table, written for the C++ tests of this folder.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>

#include "aerogel/safetensors.h"
#include "aerogel/tensor.h"
#include "base/random.h"

namespace aerogel::testing {

class TinyModel {
  public:
    static constexpr std::int64_t kHeads = 2;
    static constexpr std::int64_t kDim = 32;
    static constexpr std::int64_t kLayers = 2;

    /// Writes the folder; removed with the object.
    explicit TinyModel(const std::string& name)
        : folder_(std::filesystem::temp_directory_path() / (name + "_" + std::to_string(::getpid()))) {
        for (const char* part : {"transformer", "text_encoder", "scheduler"}) {
            std::filesystem::create_directories(folder_ / part);
        }
        write_configs();
        write_weights();
        add("word_embedding.weight", {3, kTextDim});
        add("position_embedding.weight", {4, kTextDim});
        save("text_encoder/model.safetensors");
    }
    ~TinyModel() { std::filesystem::remove_all(folder_); }
    TinyModel(const TinyModel&) = delete;
    TinyModel& operator=(const TinyModel&) = delete;

    const std::filesystem::path& folder() const { return folder_; }

  private:
    static constexpr std::int64_t kTextDim = 8;
    static constexpr std::int64_t kFreqDim = 16;
    static constexpr std::int64_t kFfnDim = 48;

    void write(const std::string& file, const std::string& text) { std::ofstream(folder_ / file) << text; }

    void write_configs() {
        write("transformer/config.json",
              R"({"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "num_attention_heads": 2,
                  "attention_head_dim": 16, "in_channels": 3, "out_channels": 3, "text_dim": 8, "freq_dim": 16,
                  "ffn_dim": 48, "num_layers": 2, "rope_max_seq_len": 64})");
        write("scheduler/scheduler_config.json",
              R"({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction",
                  "use_flow_sigmas": true, "flow_shift": 3.0})");
        write("model_index.json", R"({"generation": {"num_frames": 3, "height": 16, "width": 16,
                  "num_inference_steps": 3, "guidance_scale": 2.0}})");
        write("text_encoder/vocabulary.json",
              R"({"words": ["<pad>", "up", "down"], "pad": "<pad>", "max_length": 4, "slots_per_object": 2,
                  "max_objects": 2})");
    }

    void write_weights() {
        const std::string embedder = "condition_embedder.";
        add("patch_embedding.weight", {kDim, 3, 1, 2, 2});
        add("patch_embedding.bias", {kDim});
        add_linear(embedder + "time_embedder.linear_1", kFreqDim, kDim);
        add_linear(embedder + "time_embedder.linear_2", kDim, kDim);
        add_linear(embedder + "time_proj", kDim, 6 * kDim);
        add_linear(embedder + "text_embedder.linear_1", kTextDim, kDim);
        add_linear(embedder + "text_embedder.linear_2", kDim, kDim);
        for (int i = 0; i < kLayers; ++i) add_block("blocks." + std::to_string(i));
        add("scale_shift_table", {1, 2, kDim});
        add_linear("proj_out", kDim, 12);
        save("transformer/diffusion_pytorch_model.safetensors");
    }

    void add_block(const std::string& name) {
        add(name + ".scale_shift_table", {1, 6, kDim});
        for (const std::string attention : {".attn1", ".attn2"}) {
            for (const char* layer : {".to_q", ".to_k", ".to_v", ".to_out.0"}) {
                add_linear(name + attention + layer, kDim, kDim);
            }
            add(name + attention + ".norm_q.weight", {kDim});
            add(name + attention + ".norm_k.weight", {kDim});
        }
        add(name + ".norm2.weight", {kDim});
        add(name + ".norm2.bias", {kDim});
        add_linear(name + ".ffn.net.0.proj", kDim, kFfnDim);
        add_linear(name + ".ffn.net.2", kFfnDim, kDim);
    }

    void add_linear(const std::string& name, std::int64_t in, std::int64_t out) {
        add(name + ".weight", {out, in});
        add(name + ".bias", {out});
    }

    void add(const std::string& name, const Shape& shape) {
        Tensor tensor(DType::f32, shape);
        auto* values = tensor.mutable_as<float>();
        fill_normal(std::span(values, static_cast<std::size_t>(tensor.count())), 1, tensors_.size());
        for (std::int64_t i = 0; i < tensor.count(); ++i) values[i] *= 0.2F;
        tensors_[name] = tensor;
    }

    void save(const std::string& file) {
        save_safetensors(folder_ / file, tensors_);
        tensors_.clear();
    }

    std::filesystem::path folder_;
    std::map<std::string, Tensor> tensors_;
};

}  // namespace aerogel::testing
