# syntax=docker/dockerfile:1
# The operator's image: one static binary and nothing else. The sandbox makes the same image without a container engine.
FROM docker.io/library/rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# .cargo/config.toml links statically for the host's own target; there is nothing to add for a FROM scratch image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package valkey-cluster-operator --bin valkey-cluster-operator \
    && cp target/*/release/valkey-cluster-operator /valkey-cluster-operator

FROM scratch
COPY --from=build --chmod=0755 /valkey-cluster-operator /valkey-cluster-operator
# Nobody's number on any host: the image has no user database.
USER 65532:65532
ENTRYPOINT ["/valkey-cluster-operator"]
