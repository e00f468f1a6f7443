#!/bin/bash
# Times `waybill build` of Dockerfiles without RUN, in turn with what else makes the same image in the same registry.
#
#   bench/build.sh [ROUNDS]      as root, with docker.io; default 5 rounds, of which the best counts
#
# It wants bin/ (make build) and crane (make tools). The tables are seconds, and ours / theirs.
. "$(dirname "$0")/servers.sh"
rounds=${1:-5}

serve waybill 15000
server=${pids[0]}
start dockerd dockerd --data-root "$dir/docker" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" --host "unix://$dir/docker.sock" --bridge none --iptables=false \
	--storage-driver vfs --insecure-registry 127.0.0.1:15000
export WAYBILL_URL=http://127.0.0.1:15000 DOCKER_HOST="unix://$dir/docker.sock" DOCKER_CONFIG="$dir/config" DOCKER_BUILDKIT=0 WAYBILL_TOKEN=$token
up dockerd docker version
docker login -u bench --password-stdin 127.0.0.1:15000 <<<"$WAYBILL_TOKEN" >/dev/null 2>&1

service=$dir/service large=$dir/large many=$dir/many base=$dir/base
mkdir -p "$service" "$large" "$many/files" "$base"
# crane has no USER to set, and root is denied.
printf 'FROM scratch\nCOPY base /base\nUSER 65532:65532\n' >"$base/Dockerfile"
touch "$base/base"
bin/waybill build -t bench/base:v1 "$base" >/dev/null 2>&1
printf 'FROM scratch\nCOPY app /app\nCOPY config.yaml /etc/app/config.yaml\nUSER 65532:65532\nENTRYPOINT ["/app"]\n' >"$service/Dockerfile"
echo "listen: :8080" >"$service/config.yaml"
head -c 20M bin/waybill >"$service/app"
for d in "$large" "$many"; do printf 'FROM scratch\nCOPY files /srv/files\nUSER 65532:65532\n' >"$d/Dockerfile"; done
mkdir "$large/files"
cat bin/waybill-scanner bin/waybill bin/waybill-scanner | head -c 500M | split -b 50M - "$large/files/part-"
head -c 20M bin/waybill-scanner | split -a 3 -b 20972 - "$many/files/file-"

now() { date +%s%N; }
declare -A best
timed() { # name command…
	local name=$1 began
	shift
	began=$(now)
	"$@" >"$dir/out" 2>&1 || { cat "$dir/out" >&2; exit 1; }
	local took=$((($(now) - began) / 1000000))
	if [[ -z ${best[$name]:-} || $took -lt ${best[$name]} ]]; then best[$name]=$took; fi
}
docker_both() { docker build -q -t "127.0.0.1:15000/bench/docker:$1" "$service" && docker push -q "127.0.0.1:15000/bench/docker:$1"; }
crane_append() { tar -C "$service" -c app config.yaml | internal/tools/bin/crane append --insecure -b 127.0.0.1:15000/bench/base:v1 -f - -t "127.0.0.1:15000/bench/crane:$1"; }
waybill_build() { bin/waybill build -t "bench/$1:v$3" "$2"; }
# As one would by hand, on one core: a tar, compressed, and its digest.
by_hand() { taskset -c 0 sh -c "tar -C '$1' -c files | gzip | sha256sum"; }

docker_both warm >/dev/null
for i in $(seq "$rounds"); do
	# Each round has another program, as each commit does; a digit of it is enough.
	printf '%08d%s' "$i" "$$" | dd of="$service/app" conv=notrunc bs=1 seek=4096 status=none
	for d in "$large" "$many"; do printf '%08d%s' "$i" "$$" >"$d/files/round"; done
	timed "service, waybill build" waybill_build service "$service" "$i"
	timed "service, docker build + push" docker_both "v$i"
	timed "service, crane append" crane_append "v$i"
	timed "service, again, waybill build" waybill_build service "$service" "$i"
	timed "service, again, docker build + push" docker_both "v$i"
	timed "1,000 files, waybill build" waybill_build many "$many" "$i"
	timed "1,000 files, tar | gzip | sha256sum" by_hand "$many"
done
timed "500 MB, waybill build" waybill_build large "$large" 1
timed "500 MB, tar | gzip | sha256sum" by_hand "$large"
ratio() { awk -v a="${best[$1]}" -v b="${best[$2]}" -v n="$1 / $2" 'BEGIN { printf "%-75s %7.2f %7.2f  %.2f\n", n, a / 1000, b / 1000, a / b }'; }
ratio "service, waybill build" "service, docker build + push"
ratio "service, again, waybill build" "service, again, docker build + push"
ratio "service, waybill build" "service, crane append"
ratio "1,000 files, waybill build" "1,000 files, tar | gzip | sha256sum"
ratio "500 MB, waybill build" "500 MB, tar | gzip | sha256sum"
awk '/VmHWM/ { printf "the server held %d MiB at most\n", $2 / 1024 }' "/proc/$server/status"
