// What kernels of rotations refuse.
#include "kernels/hadamard.h"

namespace aerogel {

std::string RotationProblem::describe() const {
    return kind == RotationKind::hadamard ? "float32 rows" : "float32 rows by convrot";
}

std::string HadamardKernel::why_not(const RotationProblem& problem) const {
    return problem.kind == RotationKind::hadamard || convrot ? "" : "takes Sylvester's matrices only";
}

}  // namespace aerogel
