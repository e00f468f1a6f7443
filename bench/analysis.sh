#!/bin/bash
# Times the upload of a large blob while layers that came just before are analysed, beside one while none is.
#
#   bench/analysis.sh LAYER [bench flags]      a root file system as a layer, packed with gzip
#
# It wants bin/ (make build).
. "$(dirname "$0")/servers.sh"
layer=$(realpath "$1")
shift
port=${PORT:-15020}
serve waybill "$port"
go run ./bench -target "waybill=http://127.0.0.1:$port,$token" -analysis "$layer" "$@"
