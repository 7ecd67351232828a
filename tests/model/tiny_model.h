// Folders with tiny random models, written for the C++ tests of this folder.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>

#include "aerogel/safetensors.h"
#include "aerogel/tensor.h"
#include "base/random.h"

namespace aerogel::testing {

/// A folder in the making; removed with the object.
class RandomFolder {
  public:
    explicit RandomFolder(const std::string& name)
        : folder_(std::filesystem::temp_directory_path() / (name + "_" + std::to_string(::getpid()))) {}
    ~RandomFolder() { std::filesystem::remove_all(folder_); }
    RandomFolder(const RandomFolder&) = delete;
    RandomFolder& operator=(const RandomFolder&) = delete;

    const std::filesystem::path& folder() const { return folder_; }

  protected:
    void write(const std::string& file, const std::string& text) {
        std::filesystem::create_directories((folder_ / file).parent_path());
        std::ofstream(folder_ / file) << text;
    }

    void add(const std::string& name, const Shape& shape) {
        Tensor tensor(DType::f32, shape);
        auto* values = tensor.mutable_as<float>();
        fill_normal(std::span(values, static_cast<std::size_t>(tensor.count())), seed_, tensors_.size());
        for (std::int64_t i = 0; i < tensor.count(); ++i) values[i] *= 0.2F;
        tensors_[name] = tensor;
    }

    void add_linear(const std::string& name, std::int64_t in, std::int64_t out, bool has_bias = true) {
        add(name + ".weight", {out, in});
        if (has_bias) add(name + ".bias", {out});
    }

    std::uint64_t seed_ = 1;  ///< of what is added

    /// What was added goes into a file.
    void save(const std::string& file) {
        std::filesystem::create_directories((folder_ / file).parent_path());
        save_safetensors(folder_ / file, tensors_);
        tensors_.clear();
    }

  private:
    std::filesystem::path folder_;
    std::map<std::string, Tensor> tensors_;
};

/// A pipeline folder with a Wan model and a caption table.
class TinyModel : public RandomFolder {
  public:
    static constexpr std::int64_t kHeads = 2;
    static constexpr std::int64_t kDim = 32;
    static constexpr std::int64_t kLayers = 2;

    explicit TinyModel(const std::string& name) : RandomFolder(name) {
        write_configs();
        write_transformer("transformer");
        add("word_embedding.weight", {3, kTextDim});
        add("position_embedding.weight", {4, kTextDim});
        save("text_encoder/model.safetensors");
    }

  protected:
    void write_transformer(const std::string& folder) {
        write(folder + "/config.json",
              R"({"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "num_attention_heads": 2,
                  "attention_head_dim": 16, "in_channels": 3, "out_channels": 3, "text_dim": 8, "freq_dim": 16,
                  "ffn_dim": 48, "num_layers": 2, "rope_max_seq_len": 64})");
        write_weights(folder);
    }

  private:
    static constexpr std::int64_t kTextDim = 8;
    static constexpr std::int64_t kFreqDim = 16;
    static constexpr std::int64_t kFfnDim = 48;

    void write_configs() {
        write("scheduler/scheduler_config.json",
              R"({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction",
                  "use_flow_sigmas": true, "flow_shift": 3.0})");
        write("model_index.json", R"({"generation": {"num_frames": 3, "height": 16, "width": 16,
                  "num_inference_steps": 3, "guidance_scale": 2.0}})");
        write("text_encoder/vocabulary.json",
              R"({"words": ["<pad>", "up", "down"], "pad": "<pad>", "max_length": 4, "slots_per_object": 2,
                  "max_objects": 2})");
    }

    void write_weights(const std::string& folder) {
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
        save(folder + "/diffusion_pytorch_model.safetensors");
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
};

/// The same with a second expert.
class TwoExperts : public TinyModel {
  public:
    explicit TwoExperts(const std::string& name) : TinyModel(name) {
        seed_ = 2;
        write_transformer("transformer_2");
        write("model_index.json", R"({"boundary_ratio": 0.8, "generation": {"num_frames": 3, "height": 16,
                  "width": 16, "num_inference_steps": 3, "guidance_scale": 2.0}})");
    }
};

/// A folder with a Z-Image transformer of 2 + 1 + 1 blocks.
class TinyZImage : public RandomFolder {
  public:
    static constexpr std::int64_t kTextDim = 24;

    explicit TinyZImage(const std::string& name) : RandomFolder(name) {
        write("config.json",
              R"({"_class_name": "ZImageTransformer2DModel", "in_channels": 4, "dim": 48, "n_layers": 2,
                  "n_refiner_layers": 1, "n_heads": 3, "cap_feat_dim": 24, "axes_dims": [4, 6, 6]})");
        add_linear("all_x_embedder.2-1", 16, kDim);
        add_linear("all_final_layer.2-1.linear", kDim, 16);
        add_linear("all_final_layer.2-1.adaLN_modulation.1", kDim, kDim);
        add_block("noise_refiner.0", true);
        add_block("context_refiner.0", false);
        add_linear("t_embedder.mlp.0", 256, 1024);
        add_linear("t_embedder.mlp.2", 1024, kDim);
        add("cap_embedder.0.weight", {kTextDim});
        add_linear("cap_embedder.1", kTextDim, kDim);
        add_block("layers.0", true);
        add_block("layers.1", true);
        add("x_pad_token", {1, kDim});
        add("cap_pad_token", {1, kDim});
        save("diffusion_pytorch_model.safetensors");
    }

  private:
    static constexpr std::int64_t kDim = 48, kHidden = 128;

    void add_block(const std::string& name, bool modulated) {
        for (const char* layer : {"to_q", "to_k", "to_v", "to_out.0"})
            add_linear(name + ".attention." + layer, kDim, kDim, false);
        add(name + ".attention.norm_q.weight", {16});
        add(name + ".attention.norm_k.weight", {16});
        add_linear(name + ".feed_forward.w1", kDim, kHidden, false);
        add_linear(name + ".feed_forward.w2", kHidden, kDim, false);
        add_linear(name + ".feed_forward.w3", kDim, kHidden, false);
        for (const char* norm : {"attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"})
            add(name + "." + norm + ".weight", {kDim});
        if (modulated) add_linear(name + ".adaLN_modulation.0", kDim, 4 * kDim);
    }
};

/// A folder with a Qwen-Image transformer of 2 blocks.
class TinyQwenImage : public RandomFolder {
  public:
    static constexpr std::int64_t kTextDim = 24;

    explicit TinyQwenImage(const std::string& name) : RandomFolder(name) {
        write("config.json",
              R"({"_class_name": "QwenImageTransformer2DModel", "in_channels": 16, "out_channels": 4,
                  "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
                  "joint_attention_dim": 24, "axes_dims_rope": [4, 6, 6]})");
        add_linear("time_text_embed.timestep_embedder.linear_1", 256, kDim);
        add_linear("time_text_embed.timestep_embedder.linear_2", kDim, kDim);
        add("txt_norm.weight", {kTextDim});
        add_linear("img_in", 16, kDim);
        add_linear("txt_in", kTextDim, kDim);
        for (const char* block : {"transformer_blocks.0", "transformer_blocks.1"}) add_block(block);
        add_linear("norm_out.linear", kDim, 2 * kDim);
        add_linear("proj_out", kDim, 16);
        save("diffusion_pytorch_model.safetensors");
    }

  private:
    static constexpr std::int64_t kDim = 32;

    void add_block(const std::string& name) {
        for (const char* layer :
             {"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"})
            add_linear(name + ".attn." + layer, kDim, kDim);
        for (const char* norm : {"norm_q", "norm_k", "norm_added_q", "norm_added_k"})
            add(name + ".attn." + norm + ".weight", {16});
        for (const std::string stream : {".img", ".txt"}) {
            add_linear(name + stream + "_mod.1", kDim, 6 * kDim);
            add_linear(name + stream + "_mlp.net.0.proj", kDim, 4 * kDim);
            add_linear(name + stream + "_mlp.net.2", 4 * kDim, kDim);
        }
    }
};

}  // namespace aerogel::testing
