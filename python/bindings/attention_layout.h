// "BNSD" and "BSND" as Python names them.
#pragma once

#include <string>

#include "aerogel/attention.h"
#include "aerogel/error.h"

namespace aerogel::python {

inline AttentionLayout layout_of(const std::string& name) {
    if (name == "BNSD") return AttentionLayout::bnsd;
    if (name == "BSND") return AttentionLayout::bsnd;
    throw InvalidArgument("[attention] the layout must be BNSD or BSND, got " + name);
}

}  // namespace aerogel::python
