#!/bin/bash
# Times a push of a Debian root file system until verdict, scan and signature are there, beside push to distribution's
# registry, trivy image and cosign sign: the same image, the same advisory database, in turn.
#
#   bench/verdict.sh REGISTRY TRIVY [bench flags]      two programs: distribution's registry, and trivy
#
# It wants bin/ (make build), cosign and crane (make tools), and mmdebstrap.
set -euo pipefail
cd "$(dirname "$0")/.."
registry=$(realpath "$1") trivy=$(realpath "$2")
shift 2
dir=$(mktemp -d)
chmod 711 "$dir"
pids=()
stop() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap stop EXIT
up() {
	for _ in $(seq 600); do curl -fs -o /dev/null "$1" && return; sleep 0.1; done
	echo "$1 does not answer" >&2
	exit 1
}

mmdebstrap --quiet --variant=minbase bookworm "$dir/root.tar"
mkdir -p "$dir/cache/db"
tar -xzf examples/advisories/db.tar.gz -C "$dir/cache/db"
(cd "$dir" && COSIGN_PASSWORD='' "$OLDPWD/internal/tools/bin/cosign" generate-key-pair >/dev/null 2>&1)

bin/waybill serve --data "$dir/waybill" --listen 127.0.0.1:15000 2>"$dir/waybill.log" >&2 &
pids+=($!)
up http://127.0.0.1:15000/readyz
export WAYBILL_URL=http://127.0.0.1:15000
WAYBILL_TOKEN=$(cat "$dir/waybill/admin.token")
export WAYBILL_TOKEN DOCKER_CONFIG="$dir/docker"
bin/waybill db import examples/advisories/db.tar.gz >/dev/null
internal/tools/bin/crane auth login 127.0.0.1:15000 -u bench -p "$WAYBILL_TOKEN" >/dev/null 2>&1
cat >"$dir/distribution.yml" <<-YAML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $dir/distribution}}
http: {addr: "127.0.0.1:15003", secret: bench}
YAML
"$registry" serve "$dir/distribution.yml" >"$dir/registry.log" 2>&1 &
pids+=($!)
up http://127.0.0.1:15003/v2/
CGO_ENABLED=0 go build -o "$dir/verdict" ./bench/verdict
"$dir/verdict" -waybill 127.0.0.1:15000 -registry 127.0.0.1:15003 -crane internal/tools/bin/crane -cosign internal/tools/bin/cosign -trivy "$trivy" \
	-key "$dir/cosign.key" -cache "$dir/cache" -dir "$dir" -root "$dir/root.tar" "$@"
