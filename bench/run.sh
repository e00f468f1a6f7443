#!/bin/bash
# Measures Waybill beside other registries, each with a fresh folder, all on loopback.
#
#   bench/run.sh [PEERS] [bench flags]      PEERS: a folder with any of the programs zot, olareg and registry (distribution)
#
# It wants bin/waybill and bin/waybill-scanner (make build). Waybill fsyncs and asks for a token; the peers run as they
# come: anonymous, and as durable as they choose to be.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=
if [[ $# -gt 0 && -d $1 ]]; then peers=$(realpath "$1"); shift; fi
dir=$(mktemp -d)
pids=()
stop() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap stop EXIT

up() { # name url
	for _ in $(seq 100); do
		curl -fs -o /dev/null "$2" && return
		sleep 0.1
	done
	echo "$1 does not answer at $2:" >&2
	tail -5 "$dir/$1.log" >&2
	exit 1
}

bin/waybill serve --data "$dir/waybill" --listen 127.0.0.1:15000 2>"$dir/waybill.log" >&2 &
pids+=($!)
up waybill http://127.0.0.1:15000/readyz
export WAYBILL_URL=http://127.0.0.1:15000
token=$(cat "$dir/waybill/admin.token")
targets=(-target "waybill=$WAYBILL_URL,$token")
# GATE=1: beside one who may pull all, a deployer, who may pull what was promoted; ours / best peer is then what the gate
# leaves.
if [[ -n ${GATE:-} ]]; then
	WAYBILL_TOKEN=$token
	export WAYBILL_TOKEN
	deployer=$(bin/waybill token create --role deployer --environment dev)
	targets=(-target "deployer=$WAYBILL_URL,$token,$deployer" -target "reader=$WAYBILL_URL,$token")
	peers=
fi

if [[ -x $peers/zot ]]; then
	cat >"$dir/zot.json" <<-JSON
	{"distSpecVersion": "1.1.1", "storage": {"rootDirectory": "$dir/zot"}, "http": {"address": "127.0.0.1", "port": "15001"}, "log": {"level": "error"}}
	JSON
	"$peers/zot" serve "$dir/zot.json" >"$dir/zot.log" 2>&1 &
	pids+=($!)
	up zot http://127.0.0.1:15001/v2/
	targets+=(-target zot=http://127.0.0.1:15001)
fi
if [[ -x $peers/olareg ]]; then
	"$peers/olareg" serve --dir "$dir/olareg" --store-type dir --port 15002 --verbosity error >"$dir/olareg.log" 2>&1 &
	pids+=($!)
	up olareg http://127.0.0.1:15002/v2/
	targets+=(-target olareg=http://127.0.0.1:15002)
fi
if [[ -x $peers/registry ]]; then
	cat >"$dir/distribution.yml" <<-YAML
	version: 0.1
	log: {level: error, accesslog: {disabled: true}}
	storage: {filesystem: {rootdirectory: $dir/distribution}}
	http: {addr: "127.0.0.1:15003", secret: bench}
	YAML
	"$peers/registry" serve "$dir/distribution.yml" >"$dir/registry.log" 2>&1 &
	pids+=($!)
	up registry http://127.0.0.1:15003/v2/
	targets+=(-target distribution=http://127.0.0.1:15003)
fi
CGO_ENABLED=0 go build -o "$dir/bench" ./bench
"$dir/bench" "${targets[@]}" "$@"
