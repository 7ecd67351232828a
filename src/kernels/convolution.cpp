// A convolution in words.
#include "kernels/convolution.h"

namespace aerogel {

std::string ConvolutionProblem::describe() const {
    std::string text = "channels=" + std::to_string(channels) + " out=" + std::to_string(out_channels);
    text += " kernel=" + std::to_string(kernel.frames) + "x" + std::to_string(kernel.height) + "x" +
            std::to_string(kernel.width);
    return text;
}

}  // namespace aerogel
