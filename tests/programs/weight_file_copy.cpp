// Reads the weights of a model (safetensors or GGUF) and writes all tensors, as models get them, as one file.
//   weight_file_copy IN OUT
#include <cstdio>
#include <exception>
#include <map>
#include <string>

#include "aerogel/safetensors.h"
#include "quant/weight_file.h"

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: weight_file_copy IN OUT\n");
        return 1;
    }
    try {
        const auto file = aerogel::WeightFile::open(argv[1]);
        std::map<std::string, aerogel::Tensor> tensors;
        for (const auto& name : file.names()) tensors[name] = file.tensor(name);
        aerogel::save_safetensors(argv[2], tensors);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
