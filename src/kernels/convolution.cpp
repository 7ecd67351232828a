// A convolution in words, and what kernels take.
#include "kernels/convolution.h"

namespace aerogel {
namespace {

std::string in_words(const Axes& axes) {
    return std::to_string(axes.frames) + "x" + std::to_string(axes.height) + "x" + std::to_string(axes.width);
}

}  // namespace

std::string ConvolutionProblem::describe() const {
    std::string text = "channels=" + std::to_string(channels) + " out=" + std::to_string(out_channels);
    text += " kernel=" + in_words(kernel);
    if (stride.count() != 1) text += " stride=" + in_words(stride);
    if (doubled) text += " doubled";
    return text;
}

std::string takes_convolutions(const ConvolutionProblem&) {
    return "";
}

std::string takes_winograd(const ConvolutionProblem& problem) {
    if (problem.kernel.height != 3 || problem.kernel.width != 3) return "takes 3 x 3 taps only";
    if (problem.stride.height != 1 || problem.stride.width != 1) return "takes no stride";
    if (problem.channels < 8) return "takes 8 channels or more";
    return "";
}

}  // namespace aerogel
