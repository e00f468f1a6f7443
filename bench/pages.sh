#!/bin/bash
# Times every page of a server with 500 services in five environments each and 100,000 digests, and fails when one takes
# longer, or is larger, than it may: bench/pages/pages.txt says how long.
#
#   bench/pages.sh [-rounds 50] [-only board,digest]
#
# It wants bin/ (make build) and some 4 GB of disk. DIR=folder keeps what it fills in, and finds it there the next time;
# PART=0.1 makes a tenth of the digests.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${DIR:-$(mktemp -d)}
mkdir -p "$dir"
chmod 711 "$dir"
pid=
stop() {
	[[ -z $pid ]] || { kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; }
	pid=
}
end() {
	stop
	[[ -n ${DIR:-} ]] || rm -rf "$dir"
}
trap end EXIT
export WAYBILL_URL=http://127.0.0.1:15020
start() {
	bin/waybill serve --data "$dir/waybill" --listen 127.0.0.1:15020 >>"$dir/waybill.log" 2>&1 &
	pid=$!
	for _ in $(seq 600); do curl -fs -o /dev/null "$WAYBILL_URL/readyz" && return; sleep 0.1; done
	cat "$dir/waybill.log" >&2
	exit 1
}
CGO_ENABLED=0 go build -o "$dir/pages" ./bench/pages
part=(-part "${PART:-1}")
if [[ ! -e $dir/filled ]]; then
	start
	WAYBILL_TOKEN=$(cat "$dir/waybill/admin.token") bin/waybill apply -f bench/pages/pipeline.yaml
	stop
	"$dir/pages" -fill "$dir/waybill" "${part[@]}"
	touch "$dir/filled"
fi
start
"$dir/pages" -url "$WAYBILL_URL" -token "$(cat "$dir/waybill/admin.token")" -pid "$pid" "${part[@]}" "$@"
