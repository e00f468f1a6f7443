#!/bin/bash
# Prints how much more memory Waybill takes while many push at once than at rest.
#
#   bench/memory.sh [-pushes 100] [-size 100]      at once, of so many MB each
#
# It wants bin/ (make build), and disk for what it pushes.
. "$(dirname "$0")/servers.sh"
serve waybill 15000
go build -o "$dir/memory" ./bench/memory
"$dir/memory" -url http://127.0.0.1:15000 -token "$token" -pid "${pids[0]}" "$@"
