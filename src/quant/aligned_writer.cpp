// Holding back the tensors that would push others off their alignment.
#include "quant/aligned_writer.h"

#include <algorithm>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {
namespace {

bool goes_last(DType dtype, const Shape& shape) {
    return static_cast<std::size_t>(element_count(shape)) * size_of(dtype) % 8 != 0;
}

std::vector<TensorInfo> in_file_order(std::vector<TensorInfo> infos) {
    const auto odd = std::stable_partition(infos.begin(), infos.end(), [](const TensorInfo& info) {
        return !goes_last(info.dtype, info.shape);
    });
    std::stable_sort(odd, infos.end(), [](const TensorInfo& a, const TensorInfo& b) {
        return size_of(a.dtype) > size_of(b.dtype);
    });
    return infos;
}

}  // namespace

AlignedWriter::AlignedWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors)
    : order_(in_file_order(std::move(tensors))), writer_(path, order_) {}

void AlignedWriter::write(const std::string& name, const Tensor& tensor) {
    if (goes_last(tensor.dtype(), tensor.shape())) {
        kept_.emplace(name, tensor);
    } else {
        writer_.write(name, tensor);
    }
}

void AlignedWriter::finish() {
    for (const TensorInfo& info : order_) {
        if (!goes_last(info.dtype, info.shape)) continue;
        const auto kept = kept_.find(info.name);
        if (kept == kept_.end()) {
            throw InvalidArgument("[safetensors] '" + info.name + "' was announced and never written");
        }
        writer_.write(info.name, kept->second);
    }
    writer_.finish();
}

}  // namespace aerogel
