# The image of defib: one static binary, no shell, no root.
#
#   docker build --tag defib .                                        for this machine's architecture
#   docker buildx build --platform linux/amd64,linux/arm64 .          for both: each compiles natively (or under qemu)
#
# The stages that need no compiler come first, so that the classic builder reaches `prebuilt` without touching the
# rest: `docker build --target prebuilt -f Dockerfile DIR` takes the binary DIR/defib and the empty folder DIR/state.

ARG BUILD_IMAGE=rust:1-bookworm
# Static: needs no libc. `scratch` does too, if TLS to Redis gets its CA from a file of yours.
ARG RUNTIME_IMAGE=gcr.io/distroless/static-debian12

FROM ${RUNTIME_IMAGE} AS base
LABEL org.opencontainers.image.title="defib" \
      org.opencontainers.image.description="Finds half-dead Redis pub/sub subscribers, says why, heals them" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# By number: Kubernetes' runAsNonRoot cannot judge a name, and scratch has no passwd.
USER 65532:65532
ENV STATE_DIRECTORY=/var/lib/defib \
    RUNTIME_DIRECTORY=/run/defib
EXPOSE 7337
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/defib", "probe", "http", "http://127.0.0.1:7337/livez"]
ENTRYPOINT ["/usr/local/bin/defib"]
CMD ["run", "--config", "/etc/defib/defib.toml"]

FROM base AS prebuilt
COPY --chown=65532:65532 state /var/lib/defib
COPY --chown=65532:65532 state /run/defib
COPY defib /usr/local/bin/defib

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# A static binary needs --target: without it, build scripts and macros would be linked statically too.
ENV RUSTFLAGS="-C target-feature=+crt-static"
# The dependencies first, under stand-ins for our own sources: they change seldom, and are nearly all of the time.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches && echo 'fn main() {}' > src/main.rs && : > src/lib.rs \
    && for bench in $(sed -n '/^\[\[bench/,/^$/s/^name = "\(.*\)"/\1/p' Cargo.toml); do : > "benches/$bench.rs"; done \
    && rustc -vV | sed -n 's/^host: //p' > /target \
    && cargo build --locked --release --target "$(cat /target)"
COPY . .
# cargo goes by the time of a file, and the stand-ins were built later than the sources were written.
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --release --target "$(cat /target)" \
    && install -D "target/$(cat /target)/release/defib" /out/defib \
    && mkdir /out/state

FROM base
COPY --from=build --chown=65532:65532 /out/state /var/lib/defib
COPY --from=build --chown=65532:65532 /out/state /run/defib
COPY --from=build /out/defib /usr/local/bin/defib
