// Linear problems from tests/problems/linear.txt with their arrays, one guarded run of a kernel, and the
// comparison with the reference: bit for bit where sums are integers, else a bound from k and the norms.
#pragma once

#include <string>
#include <vector>

#include "kernels/linear.h"

namespace aerogel::testing {

/// What x and the weights hold.
enum class Fill {
    normal,   ///< x normal, w uniform
    extreme,  ///< all -128 or 127, alternating and equal rows
    ties,     ///< quotients by the scale of x that are half numbers, but for rounding; a scale per row
    special,  ///< rows of zeros, NaN, infinity, denormals, huge values among normal ones
};

struct LinearCase {
    LinearProblem problem;
    Fill fill = Fill::normal;
    bool bias = true;
    bool mul_scale = false;
    bool strided = false;  ///< rows of x and y lie apart

    std::string describe() const;
};

/// One line of the problem file.
struct LinearShape {
    std::int64_t m = 0, n = 0, k = 0, group = 0;
    bool speed = false;
};
std::vector<LinearShape> linear_shapes();

/// Every scheme of a shape; types, bias, mul_scale, strides and fills vary from one to the next.
std::vector<LinearCase> linear_cases(const LinearShape& shape);

/// The arrays of a case, filled from a seed made of its numbers.
class LinearArrays {
  public:
    explicit LinearArrays(const LinearCase& linear_case);

    /// y [m, n] widened to float, packed and run by `kernel` with memory of exactly the size it asks for,
    /// filled with NaNs beforehand. Adds to `complaint` when anything around y changed.
    std::vector<float> run(const LinearKernel& kernel, std::string& complaint) const;

    /// Empty, or where `got` differs from the reference's result more than it may.
    std::string compare(const std::vector<float>& got) const;

    /// run() and compare(), with golden answers too.
    std::string check(const LinearKernel& kernel) const;

    const QuantizedTensor& weight() const { return weight_; }

  private:
    LinearArgs arguments() const;
    void fill_x();
    float x_at(std::int64_t i, std::int64_t p) const;
    /// Euclidean norms of a row of x', quantized, and of the rows of w: |sum_k x' w| <= x_norm * w_norm.
    double x_norm(std::int64_t i) const;
    std::vector<double> w_norms() const;
    /// How far an element of y may lie from the reference's. Empty: bit for bit.
    const std::vector<double>& bounds() const;
    const std::vector<float>& reference() const;

    LinearCase case_;
    std::int64_t x_stride_;
    std::int64_t y_stride_;
    QuantizedTensor weight_;
    std::vector<float> x_;  ///< with gaps of NaN; rounded to bf16 when x is bf16
    std::vector<float> mul_scale_;
    std::vector<float> bias_;
    std::vector<std::int32_t> quant_bias_;
    std::vector<float> deq_scale_;
    mutable std::vector<std::uint16_t> x_half_;
    mutable std::vector<float> reference_;
    mutable std::vector<double> bounds_;
};

}  // namespace aerogel::testing
