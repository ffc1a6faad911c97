# The image holds one static program, the files that it serves, and the licences: no shell, no
# library, no passwd. docs/docker.md says how to build and run it.
#
# The image sets no USER, because some platforms (Fly.io among them) let only root bind port 69.
# Started as root, the program binds the port and then becomes 65532:65532 for good. That takes the
# capabilities NET_BIND_SERVICE, SETUID and SETGID. Where every user may bind low ports, as in
# Docker, `--user 65532:65532` needs no capability.

# The compiler and UPX run on the platform of the build, whatever platform the image is for.
FROM --platform=$BUILDPLATFORM golang:1.26.8-trixie AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends upx-ucl \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY *.go ./
COPY internal/folder internal/folder
COPY sandbox sandbox
COPY singleport singleport
COPY status status
ARG TARGETOS TARGETARCH TARGETVARIANT
ARG VERSION=devel
# Inlining is off, because it costs a tenth of the size. It stays on for singleport, which handles
# every datagram: a package takes the last of the -gcflags whose pattern matches it. Go 1.26's new
# garbage collector is off, because its vector code is for large heaps and costs 12 kB of the image.
# Go 1.27 is to have no other collector; then this setting goes. GOARM is set for arm alone, because
# Go refuses the variants of other architectures in it. UPX does not know riscv64.
RUN if [ "$TARGETARCH" = arm ]; then export GOARM="${TARGETVARIANT#v}"; fi \
 && CGO_ENABLED=0 GOEXPERIMENT=nogreenteagc GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -buildid= -X main.version=$VERSION" -gcflags=all=-l -gcflags=flytftp/singleport= \
      -o /image/flytftp . \
 && if [ "$TARGETARCH" != riscv64 ]; then upx --best --lzma --quiet /image/flytftp; fi
COPY LICENSE docs/THIRD_PARTY_NOTICES.md /image/
COPY files /image/files
# The user of the server is neither owner nor group of the files, so the umask of the checkout must
# not matter. One date for all files makes equal layers of equal sources.
RUN chmod -R u=rwX,go=rX /image && find /image -exec touch --no-dereference --date=@0 {} +

FROM scratch
COPY --from=build /image/ /
ARG VERSION=devel
LABEL org.opencontainers.image.title="flytftp" \
      org.opencontainers.image.description="Read-only TFTP server for network boot on one UDP port" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="MIT"
ENV TFTP_ROOT=/files
EXPOSE 69/udp
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 CMD ["/flytftp", "-healthcheck"]
ENTRYPOINT ["/flytftp"]
