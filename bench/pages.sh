#!/bin/bash
# Times every page of a server with 500 services in five environments each and 100,000 digests, and fails when one takes
# longer, or is larger, than it may: bench/pages/pages.txt says how long.
#
#   bench/pages.sh [-rounds 50] [-only board,digest]
#
# It wants bin/ (make build) and some 4 GB of disk. DIR=folder keeps what it fills in, and finds it there the next time;
# PART=0.1 makes a tenth of the digests.
kept=${DIR:-}
. "$(dirname "$0")/servers.sh"
export WAYBILL_URL=http://127.0.0.1:15020
go build -o "$dir/pages" ./bench/pages
part=(-part "${PART:-1}")
if [[ ! -e $dir/filled ]]; then
	serve waybill 15020
	WAYBILL_TOKEN=$token bin/waybill apply -f bench/pages/pipeline.yaml
	stop
	"$dir/pages" -fill "$dir/waybill" "${part[@]}"
	touch "$dir/filled"
fi
serve waybill 15020
"$dir/pages" -url "$WAYBILL_URL" -token "$token" -pid "${pids[0]}" "${part[@]}" "$@"
