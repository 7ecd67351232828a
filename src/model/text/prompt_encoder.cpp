// The learned tables of a small vocabulary.
#include "model/text/prompt_encoder.h"

#include <utility>

#include "aerogel/pipeline.h"
#include "core/paths.h"

namespace aerogel {
namespace {

class CaptionTable final : public PromptEncoder {
  public:
    CaptionTable(TextEncoder encoder, Device device) : encoder_(std::move(encoder)), device_(device) {}
    Tensor encode(const std::string& prompt) const override { return encoder_.encode(prompt).to(device_); }
    std::size_t weight_bytes() const override { return 0; }
    TextModel* model() override { return nullptr; }

  private:
    TextEncoder encoder_;
    Device device_;
};

}  // namespace

std::unique_ptr<PromptEncoder> PromptEncoder::load(const std::filesystem::path& folder, Device device) {
    return std::make_unique<CaptionTable>(TextEncoder::load(folder / "text_encoder"), device);
}

bool has_prompt_encoder(const std::filesystem::path& folder) {
    return path_exists(folder / "text_encoder" / "vocabulary.json");
}

}  // namespace aerogel
