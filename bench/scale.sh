#!/bin/bash
# Compares a server whose database is as large as a large company's with one that is empty: ours / best peer is then
# full / empty. PART (default 1) of 100,000 repositories, 1,000,000 manifests and 10,000,000 blobs; all of it takes some
# ten minutes and 12 GB. FULL names a folder that keeps them for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
chmod 711 "$dir"
pids=()
stop() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap stop EXIT
export CGO_ENABLED=0
go build -o "$dir/bench" ./bench
go build -o "$dir/scale" ./bench/scale
full=${FULL:-$dir/full}
if [[ ! -f $full/whole ]]; then
	mkdir -p "$full"
	"$dir/scale" -data "$full" -part "${PART:-1}"
	touch "$full/whole"
fi
[[ $full = "$dir/full" ]] || ln -s "$(realpath "$full")" "$dir/full"
targets=()
for name in full empty; do
	port=$((15010 + ${#pids[@]}))
	bin/waybill serve --data "$dir/$name" --listen 127.0.0.1:$port 2>"$dir/$name.log" >&2 &
	pids+=($!)
	for _ in $(seq 100); do curl -fs -o /dev/null http://127.0.0.1:$port/readyz && break; sleep 0.1; done
	targets+=(-target "$name=http://127.0.0.1:$port,$(cat "$dir/$name/admin.token")")
done
"$dir/bench" "${targets[@]}" -work cold-manifest,manifest-digest,manifest-tag,tag-list,referrers,push-1MB "$@"
