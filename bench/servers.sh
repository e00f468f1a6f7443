# What the scripts beside this share; they source it. It goes to the root of the repository and makes the folder $dir; when the script
# ends, all that it started ends, and the folder goes, unless $kept names one that is to stay.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CGO_ENABLED=0
dir=${kept:-$(mktemp -d)}
mkdir -p "$dir"
chmod 711 "$dir" # PostgreSQL is somebody else, where this is root
pids=()

start() { # NAME COMMAND…: in the background; what it says is in $dir/NAME.log
	local name=$1
	shift
	"$@" >>"$dir/$name.log" 2>&1 &
	pids+=($!)
}
stop() { # all that was started
	local pid
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	pids=()
}
end() {
	stop
	[[ -n ${kept:-} ]] || rm -rf "$dir"
}
trap end EXIT

up() { # NAME COMMAND…: waits until the command succeeds
	local name=$1
	shift
	for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
	echo "$name does not answer:" >&2
	tail -5 "$dir/$name.log" >&2
	exit 1
}
serve() { # NAME PORT: a Waybill, on the data in $dir/NAME; $token is its admin's
	start "$1" "${WAYBILL:-bin/waybill}" serve --data "$dir/$1" --listen "127.0.0.1:$2"
	up "$1" curl -fs "http://127.0.0.1:$2/readyz"
	token=$(cat "$dir/$1/admin.token")
}
distribution() { # PROGRAM: distribution's registry, at port 15003
	cat >"$dir/distribution.yml" <<-YAML
	version: 0.1
	log: {level: error, accesslog: {disabled: true}}
	storage: {filesystem: {rootdirectory: $dir/distribution}}
	http: {addr: "127.0.0.1:15003", secret: bench}
	YAML
	start registry "$1" serve "$dir/distribution.yml"
	up registry curl -fs http://127.0.0.1:15003/v2/
}
