// Errors of the library. Every public function reports bad input by one of these; the message
// names the operation first, then both sides: "[linear] k must be 64, got 100 (x f32[2,100])". Besides them
// there is std::bad_alloc, and what functions of the caller throw (progress ...) passes through as it is.
// layer: base
#pragma once

#include <stdexcept>
#include <string>

namespace aerogel {

/// Base of all errors the library throws.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

/// An argument, a file's content or a setting is wrong (ValueError in Python).
class InvalidArgument : public Error {
  public:
    using Error::Error;
};

/// The request is well-formed, but not supported (NotImplementedError in Python).
class Unsupported : public Error {
  public:
    using Error::Error;
};

/// Reading or writing a file failed (OSError in Python).
class IoError : public Error {
  public:
    using Error::Error;
};

/// A device (GPU) failed or is missing (RuntimeError in Python).
class DeviceError : public Error {
  public:
    using Error::Error;
};

}  // namespace aerogel
