#!/bin/bash
# Times the upload of a large blob while layers that came just before are analysed, beside one while none is.
#
#   bench/analysis.sh LAYER [bench flags]      a root file system as a layer, packed with gzip
#
# It wants bin/ (make build).
set -euo pipefail
cd "$(dirname "$0")/.."
layer=$(realpath "$1")
shift
dir=$(mktemp -d)
chmod 711 "$dir"
stop() {
	[[ -z ${pid:-} ]] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true
	rm -rf "$dir"
}
trap stop EXIT
port=${PORT:-15020}
${WAYBILL:-bin/waybill} serve --data "$dir/data" --listen 127.0.0.1:$port 2>"$dir/log" >&2 &
pid=$!
for _ in $(seq 600); do [[ -f $dir/data/admin.token ]] && curl -fs -o /dev/null http://127.0.0.1:$port/readyz && break; sleep 0.1; done
CGO_ENABLED=0 go run ./bench -target "waybill=http://127.0.0.1:$port,$(cat "$dir/data/admin.token")" -analysis "$layer" "$@"
