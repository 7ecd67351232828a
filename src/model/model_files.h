// Finding the weights of a float model on disk.
#pragma once

#include <filesystem>

namespace aerogel {

/// The .safetensors or .safetensors.index.json of `model`: such a file itself, a diffusers folder, or a
/// pipeline folder with transformer/ inside. rank >= 0: the shard of that rank ("NAME_{rank}.safetensors")
/// where the model is stored as one file per rank, else the one file that all ranks share. IoError naming
/// what was looked for. `op` starts the message.
std::filesystem::path weights_of_model(const char* op, const std::filesystem::path& model, int rank = -1);

}  // namespace aerogel
