# The image is one static program, the files it serves and the licences. No shell, no library, no passwd.
#
#   docker build -t flytftp .
#   docker run -p 69:69/udp flytftp                                        files/ of this repository
#   docker run -p 69:69/udp -v /srv/tftp:/files:ro flytftp                 a folder of the host
#   docker buildx build --platform linux/amd64,linux/arm64 -t flytftp .    several architectures
#
# Who it runs as: the image sets no USER, because some platforms (Fly machines among them) let only root bind
# port 69. Started as root it binds the port and then becomes 65532:65532 for good. Of the capabilities it
# needs NET_BIND_SERVICE (unless the platform opens low ports to all, as Docker does), SETUID and SETGID:
#
#   docker run --read-only --cap-drop ALL --cap-add NET_BIND_SERVICE --cap-add SETUID --cap-add SETGID \
#     --security-opt no-new-privileges -p 69:69/udp flytftp
#
# Where low ports are open to all, it needs neither root nor a capability:
#
#   docker run --user 65532:65532 --read-only --cap-drop ALL --security-opt no-new-privileges -p 69:69/udp flytftp

# The compiler and UPX run on the machine that builds, whatever machine the image is for.
FROM --platform=$BUILDPLATFORM golang:1.26.8-trixie AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends upx-ucl \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY *.go ./
COPY sandbox sandbox
COPY singleport singleport
ARG TARGETOS TARGETARCH TARGETVARIANT
ARG VERSION=devel
# Inlining is off but for singleport, which handles every datagram: it costs a tenth of the size. Of several -gcflags
# the last whose pattern matches a package holds. Go 1.26's new garbage collector is off: its vector code is for large heaps, and
# 12 kB of the image; Go 1.27 is to have no other, and then this goes. GOARM is only for arm; Go refuses other architectures' variants in it.
RUN if [ "$TARGETARCH" = arm ]; then export GOARM="${TARGETVARIANT#v}"; fi \
 && CGO_ENABLED=0 GOEXPERIMENT=nogreenteagc GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -buildid= -X main.version=$VERSION" -gcflags=all=-l -gcflags=flytftp/singleport= \
      -o /image/flytftp . \
 && upx --best --lzma --quiet /image/flytftp
COPY LICENSE THIRD_PARTY_NOTICES.md /image/
COPY files /image/files
# The server reads as "others" do, whatever the umask of the checkout; one date makes equal sources equal layers.
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
