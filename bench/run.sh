#!/bin/bash
# Measures Waybill beside other registries, each with a fresh folder, all on loopback.
#
#   bench/run.sh [PEERS] [bench flags]      PEERS: a folder with any of the programs zot, olareg and registry (distribution)
#
# It wants bin/waybill and bin/waybill-scanner (make build). Waybill fsyncs and asks for a token; the peers run as they
# come: anonymous, and as durable as they choose to be.
. "$(dirname "$0")/servers.sh"
peers=
if [[ $# -gt 0 && -d $1 ]]; then peers=$(realpath "$1"); shift; fi
serve waybill 15000
export WAYBILL_URL=http://127.0.0.1:15000
targets=(-target "waybill=$WAYBILL_URL,$token")
# GATE=1: beside one who may pull all, a deployer, who may pull what was promoted; ours / best peer is then what the gate
# leaves.
if [[ -n ${GATE:-} ]]; then
	WAYBILL_TOKEN=$token
	export WAYBILL_TOKEN
	deployer=$(bin/waybill token create --role deployer --environment dev)
	targets=(-target "deployer=$WAYBILL_URL,$token,$deployer" -target "reader=$WAYBILL_URL,$token")
	peers=
	set -- -work manifest-digest,manifest-tag,pull-1MB,pull-10MB "$@" # nothing else is promoted
fi

if [[ -x $peers/zot ]]; then
	cat >"$dir/zot.json" <<-JSON
	{"distSpecVersion": "1.1.1", "storage": {"rootDirectory": "$dir/zot"}, "http": {"address": "127.0.0.1", "port": "15001"}, "log": {"level": "error"}}
	JSON
	start zot "$peers/zot" serve "$dir/zot.json"
	up zot curl -fs http://127.0.0.1:15001/v2/
	targets+=(-target zot=http://127.0.0.1:15001)
fi
if [[ -x $peers/olareg ]]; then
	start olareg "$peers/olareg" serve --dir "$dir/olareg" --store-type dir --port 15002 --verbosity error
	up olareg curl -fs http://127.0.0.1:15002/v2/
	targets+=(-target olareg=http://127.0.0.1:15002)
fi
if [[ -x $peers/registry ]]; then
	distribution "$peers/registry"
	targets+=(-target distribution=http://127.0.0.1:15003)
fi
# CEILING=1: beside what only computes the digests of what is pushed, and what writes it durably as well: how fast any
# registry could be here.
if [[ -n ${CEILING:-} ]]; then
	go build -o "$dir/ceiling" ./bench/ceiling
	mkdir "$dir/durable"
	start ceiling "$dir/ceiling" -listen 127.0.0.1:15004
	start durable "$dir/ceiling" -listen 127.0.0.1:15005 -dir "$dir/durable"
	up ceiling curl -s http://127.0.0.1:15004/v2/
	up durable curl -s http://127.0.0.1:15005/v2/
	targets+=(-target ceiling=http://127.0.0.1:15004 -target durable=http://127.0.0.1:15005)
	set -- -work push-1MB,push-10MB "$@"
fi
go build -o "$dir/bench" ./bench
"$dir/bench" "${targets[@]}" "$@"
