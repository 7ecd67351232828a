// A program outside of the project: it sees only what is installed.
#include <cstring>
#include <iostream>

#include "aerogel/version.h"

int main() {
    std::cout << "aerogel " << aerogel::version() << '\n';
    return std::strcmp(aerogel::version(), aerogel::kVersion) == 0 ? 0 : 1;
}
