// A program outside of the project: it sees only what is installed.
#include <cstring>
#include <iostream>

#include "aerogel/version.h"
#include "product.h"

int main() {
    std::cout << "aerogel " << aerogel::version() << '\n' << refusal() << '\n';
    return std::strcmp(aerogel::version(), aerogel::kVersion) == 0 && product() == 3.0F ? 0 : 1;
}
