// What the program asks of the library.
#include "product.h"

#include <array>

#include "aerogel/error.h"
#include "aerogel/linear.h"

namespace {

aerogel::Tensor number(float value) {
    const std::array<float, 1> values = {value};
    return aerogel::Tensor::of(values, {1, 1});
}

}  // namespace

float product() {
    const aerogel::FloatLinear layer(number(2.0F), number(1.0F).reshaped({1}));
    aerogel::Tensor y(aerogel::DType::f32, {1, 1});
    layer.forward(number(1.0F), y, {});
    return y.as<float>()[0];
}

std::string refusal() {
    try {
        aerogel::FloatLinear(number(1.0F).reshaped({1}), {});
    } catch (const aerogel::InvalidArgument& error) {
        return error.what();
    }
    return {};
}
