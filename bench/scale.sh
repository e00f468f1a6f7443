#!/bin/bash
# Compares a server whose database is as large as a large company's with one that is empty: ours / best peer is then
# full / empty. PART (default 1) of 100,000 repositories, 1,000,000 manifests and 10,000,000 blobs; all of it takes some
# ten minutes and 12 GB. FULL names a folder that keeps them for the next time.
. "$(dirname "$0")/servers.sh"
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
	serve "$name" "$port"
	targets+=(-target "$name=http://127.0.0.1:$port,$token")
done
"$dir/bench" "${targets[@]}" -work cold-manifest,manifest-digest,manifest-tag,tag-list,referrers,push-1MB "$@"
