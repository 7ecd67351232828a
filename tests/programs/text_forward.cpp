// Text encoders and prompts for Python tests. One line of the standard input is one call, its fields split by
// tabs; "ok" or "error MESSAGE" answers it ("ok BYTES" for linears: weight_bytes()):
//   states FOLDER IDS REAL LAYERS OUT   hidden_states; ids and layers split by commas, OUT has layer_N
//   linears FOLDER OUT                  names and schemes of the Linears, one a line
//   prompt FOLDER PROMPT_FILE OUT       encode(), OUT has embeds
//   clean PROMPT_FILE OUT               clean_prompt()
// An argument is the scheme that everything is quantized to, or a pair of files.
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "model/text/clean_text.h"
#include "model/text/prompt_encoder.h"
#include "model/text/text_model.h"

namespace {

using namespace aerogel;

std::vector<std::string> split(const std::string& text, char by) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, by);) parts.push_back(part);
    return parts;
}

template <typename Number>
std::vector<Number> numbers(const std::string& text) {
    std::vector<Number> all;
    for (const std::string& part : split(text, ',')) all.push_back(static_cast<Number>(std::stoll(part)));
    return all;
}

std::string text_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string run(const std::vector<std::string>& call, const LoadOptions& options) {
    if (call.at(0) == "states") {
        const auto model = TextModel::load(call.at(1), options);
        const auto layers = numbers<std::int64_t>(call.at(4));
        const std::vector<Tensor> states =
            model->hidden_states(numbers<std::int32_t>(call.at(2)), std::stoll(call.at(3)), layers);
        std::map<std::string, Tensor> named;
        for (std::size_t i = 0; i < layers.size(); ++i)
            named["layer_" + std::to_string(layers[i])] = states[i];
        save_safetensors(call.at(5), named);
    } else if (call.at(0) == "linears") {
        const auto model = TextModel::load(call.at(1), options);
        std::ofstream file(call.at(2));
        for (const std::string& name : model->linear_names())
            file << name << ' ' << model->linear(name).scheme() << '\n';
        return "ok " + std::to_string(model->weight_bytes());
    } else if (call.at(0) == "prompt") {
        save_safetensors(call.at(3),
                         {{"embeds", PromptEncoder::load(call.at(1), options)->encode(text_of(call.at(2)))}});
    } else if (call.at(0) == "clean") {
        std::ofstream(call.at(2), std::ios::binary) << clean_prompt(text_of(call.at(1)));
    } else {
        throw InvalidArgument("no such call: " + call.at(0));
    }
    return "ok";
}

}  // namespace

int main(int count, char** arguments) {
    LoadOptions options;
    if (count > 1 && std::string(arguments[1]).find('/') != std::string::npos)
        options.quantized = arguments[1];
    else if (count > 1)
        options.online.emplace().quant_type = arguments[1];
    for (std::string line; std::getline(std::cin, line);) {
        try {
            std::cout << run(split(line, '\t'), options) << std::endl;
        } catch (const Error& error) {
            std::cout << "error " << error.what() << std::endl;
        }
    }
    return 0;
}
