# The programs are static; the base of the second stage is there for PostgreSQL, which serve runs when no
# database.url is set. Name other bases, such as a mirror's, with --build-arg.
ARG BUILD_BASE=golang:1.26-bookworm
ARG RUN_BASE=debian:bookworm-slim

FROM ${BUILD_BASE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ENV CGO_ENABLED=0
# Nothing here speaks MessagePack, for which gin would bring six megabytes.
RUN go build -trimpath -tags nomsgpack -ldflags "-s -w -X main.version=${VERSION}" -o /out/waybill ./cmd/waybill
RUN go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/waybill-kms ./cmd/waybill-kms
RUN GOEXPERIMENT=jsonv2 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/waybill-scanner ./cmd/waybill-scanner

FROM ${RUN_BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends postgresql ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/*/main \
 && useradd --system --uid 10001 --home-dir /var/lib/waybill --create-home waybill
COPY --from=build /out/ /usr/local/bin/
USER 10001:10001
WORKDIR /var/lib/waybill
VOLUME /var/lib/waybill
EXPOSE 8080
ENTRYPOINT ["waybill"]
CMD ["serve", "--data", "/var/lib/waybill/data", "--listen", "0.0.0.0:8080"]
