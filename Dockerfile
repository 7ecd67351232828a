# The command in a container: docker build -t aerogel . && docker run --rm -v "$PWD:/work" aerogel inspect MODEL
FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates make
WORKDIR /aerogel
COPY . .
RUN make command && cmake --install build/release --prefix /opt/aerogel --strip

FROM debian:12-slim
# A test compares these with what the command needs.
RUN apt-get update && apt-get install -y --no-install-recommends \
    ffmpeg libfmt9 libpcre2-8-0 libpng16-16 libstdc++6 libutf8proc2 libyaml-cpp0.7 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/aerogel/bin/aerogel /usr/local/bin/
WORKDIR /work
ENTRYPOINT ["aerogel"]
