// A borrowed callable: two pointers, no allocation, so that kernels may pass lambdas to the pool.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace aerogel {

template <typename Signature>
class FunctionRef;

/// Refers to a callable that outlives the call (as a lambda argument does).
template <typename Result, typename... Args>
class FunctionRef<Result(Args...)> {
  public:
    template <typename Callable,
              typename = std::enable_if_t<!std::is_same_v<std::decay_t<Callable>, FunctionRef>>>
    FunctionRef(Callable&& callable)
        : object_(const_cast<void*>(static_cast<const void*>(std::addressof(callable)))),
          call_([](void* object, Args... args) -> Result {
              return (*static_cast<std::remove_reference_t<Callable>*>(object))(std::forward<Args>(args)...);
          }) {}

    Result operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

  private:
    void* object_;
    Result (*call_)(void*, Args...);
};

}  // namespace aerogel
