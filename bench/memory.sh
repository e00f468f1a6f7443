#!/bin/bash
# Prints how much more memory Waybill takes while many push at once than at rest.
#
#   bench/memory.sh [-pushes 100] [-size 100]      at once, of so many MB each
#
# It wants bin/ (make build), and disk for what it pushes.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
stop() {
	kill "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	rm -rf "$dir"
}
trap stop EXIT
bin/waybill serve --data "$dir/waybill" --listen 127.0.0.1:15000 2>"$dir/waybill.log" >&2 &
pid=$!
for _ in $(seq 100); do curl -fs -o /dev/null http://127.0.0.1:15000/readyz && break; sleep 0.1; done
CGO_ENABLED=0 go build -o "$dir/memory" ./bench/memory
"$dir/memory" -url http://127.0.0.1:15000 -token "$(cat "$dir/waybill/admin.token")" -pid "$pid" "$@"
