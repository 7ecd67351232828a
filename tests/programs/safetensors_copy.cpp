// Reads a safetensors file or index and writes all its tensors and metadata as one file.
//   safetensors_copy IN OUT
#include <cstdio>
#include <exception>
#include <vector>

#include "aerogel/safetensors.h"

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: safetensors_copy IN OUT\n");
        return 1;
    }
    try {
        const auto file = aerogel::SafetensorsFile::open(argv[1]);
        std::vector<aerogel::TensorInfo> infos;
        for (const auto& name : file.names()) infos.push_back(file.info(name));
        aerogel::SafetensorsWriter writer(argv[2], infos, file.metadata());
        for (const auto& info : infos) writer.write(info.name, file.tensor(info.name));
        writer.finish();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
