// Runs a sampler over a whole trajectory with a given linear velocity field, for
// tests/model/test_samplers.py. sampler_dump KIND STEPS SHIFT INPUT.safetensors OUTPUT.safetensors
// [even|training [TERMINAL]]: INPUT holds noise [n] and matrix [n, n], the velocity is v = tanh(matrix x) *
// (0.5 + t / 1000); OUTPUT gets timesteps [steps] and samples [steps, n].
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "aerogel/sampler.h"
#include "aerogel/tensor.h"

namespace {

using aerogel::DType;
using aerogel::Tensor;

void velocity_at(const Tensor& matrix, const Tensor& x, float t, Tensor& v) {
    const std::int64_t n = x.count();
    for (std::int64_t i = 0; i < n; ++i) {
        double sum = 0.0;
        for (std::int64_t j = 0; j < n; ++j)
            sum += double{matrix.as<float>()[i * n + j]} * double{x.as<float>()[j]};
        v.mutable_as<float>()[i] = static_cast<float>(std::tanh(sum) * (0.5 + double{t} / 1000.0));
    }
}

void dump(int argc, char** argv) {
    aerogel::NoiseLevels levels;
    const int steps = levels.steps = std::atoi(argv[2]);
    levels.shift = std::atof(argv[3]);
    if (argc > 6) levels.even = std::string(argv[6]) == "even";
    if (argc > 7) levels.terminal = std::atof(argv[7]);
    const auto sampler = aerogel::Sampler::create(aerogel::sampler_kind_from(argv[1]), levels);
    const auto input = aerogel::SafetensorsFile::open(argv[4]);
    Tensor x = input.tensor("noise").clone();
    const Tensor matrix = input.tensor("matrix").clone();
    const std::int64_t n = x.count();
    Tensor v(DType::f32, {n});
    Tensor samples(DType::f32, {steps, n});
    Tensor timesteps(DType::f32, {steps});
    for (int i = 0; i < steps; ++i) {
        const float t = sampler->timesteps()[static_cast<std::size_t>(i)];
        timesteps.mutable_as<float>()[i] = t;
        velocity_at(matrix, x, t, v);
        sampler->step(i, v, x);
        std::copy_n(x.as<float>(), n, samples.mutable_as<float>() + i * n);
    }
    aerogel::save_safetensors(argv[5], {{"samples", samples}, {"timesteps", timesteps}});
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc < 6)
            throw aerogel::InvalidArgument(
                "usage: sampler_dump KIND STEPS SHIFT INPUT OUTPUT [even|training [TERMINAL]]");
        dump(argc, argv);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
