# The image holds one static program, the files that it serves, and the licences: no shell, no
# library, no passwd. docs/docker.md says how to build and run it. The target `boot` is the same
# image, with iPXE and a memory test among the files.
#
# The image sets no USER, because some platforms (Fly.io among them) let only root bind port 69.
# Started as root, the program binds the port and then becomes 65532:65532 for good. That takes the
# capabilities NET_BIND_SERVICE, SETUID and SETGID. Where every user may bind low ports, as in
# Docker, `--user 65532:65532` needs no capability.

# The compiler and UPX run on the platform of the build, whatever platform the image is for.
FROM --platform=$BUILDPLATFORM golang:1.26.8-trixie AS base

FROM base AS build
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
# Go refuses the variants of other architectures in it. UPX does not know riscv64. Its LZMA takes 5
# bits of a byte for the context of the next, instead of 3, which saves 3 kB.
RUN if [ "$TARGETARCH" = arm ]; then export GOARM="${TARGETVARIANT#v}"; fi \
 && CGO_ENABLED=0 GOEXPERIMENT=nogreenteagc GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -buildid= -X main.version=$VERSION" -gcflags=all=-l -gcflags=flytftp/singleport= \
      -o /image/flytftp . \
 && if [ "$TARGETARCH" != riscv64 ]; then upx --best --lzma --crp-lzma-lc=5 --quiet /image/flytftp; fi
COPY LICENSE docs/THIRD_PARTY_NOTICES.md /image/
COPY files /image/files
# The user of the server is neither owner nor group of the files, so the umask of the checkout must
# not matter. One date for all files makes equal layers of equal sources.
RUN chmod -R u=rwX,go=rX /image && find /image -exec touch --no-dereference --date=@0 {} +

FROM scratch AS minimal
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

# Debian's own iPXE and memory test, unchanged, for the machines that boot. Their licences are
# served with them.
FROM base AS programs
WORKDIR /programs
RUN dpkg --add-architecture amd64 \
 && apt-get update \
 && apt-get --option APT::Sandbox::User=root download ipxe memtest86+:amd64 \
 && for package in *.deb; do dpkg-deb --extract "$package" unpacked || exit; done \
 && mkdir --parents files/licenses \
 && cd unpacked/usr/lib/ipxe \
 && cp --dereference undionly.kpxe undionly.kkpxe ipxe.pxe ipxe.lkrn ipxe.efi snponly.efi ipxe-arm64.efi \
      ipxe-riscv64.efi ../../../boot/memtest86+x64.bin ../../../boot/memtest86+x64.efi /programs/files/ \
 && cd /programs/unpacked/usr/share/doc \
 && for package in ipxe memtest86+; do cp "$package/copyright" "/programs/files/licenses/$package.txt" || exit; done \
 && cd /usr/share/common-licenses \
 && for name in GPL-2 GPL-3 MPL-1.1; do cp "$name" "/programs/files/licenses/$name.txt" || exit; done
COPY docs/SOURCES.txt files/licenses/
RUN for package in *.deb; do \
      dpkg-deb --show --showformat '    ${source:Package} ${source:Version}\n' "$package" >>files/licenses/SOURCES.txt || exit; \
    done \
 && chmod -R u=rwX,go=rX files && find files -exec touch --no-dereference --date=@0 {} +

FROM minimal AS boot
COPY --from=programs /programs/files/ /files/

# Without a target, the last stage is built.
FROM minimal
