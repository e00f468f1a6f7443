#!/bin/bash
# Times a push of a Debian root file system until verdict, scan and signature are there, beside push to distribution's
# registry, trivy image and cosign sign: the same image, the same advisory database, in turn.
#
#   bench/verdict.sh REGISTRY TRIVY [bench flags]      two programs: distribution's registry, and trivy
#
# It wants bin/ (make build), cosign and crane (make tools), and mmdebstrap.
. "$(dirname "$0")/servers.sh"
registry=$(realpath "$1") trivy=$(realpath "$2")
shift 2

mmdebstrap --quiet --variant=minbase bookworm "$dir/root.tar"
mkdir -p "$dir/cache/db"
tar -xzf examples/advisories/db.tar.gz -C "$dir/cache/db"
(cd "$dir" && COSIGN_PASSWORD='' "$OLDPWD/internal/tools/bin/cosign" generate-key-pair >/dev/null 2>&1)

serve waybill 15000
export WAYBILL_URL=http://127.0.0.1:15000 WAYBILL_TOKEN=$token DOCKER_CONFIG="$dir/docker"
bin/waybill db import examples/advisories/db.tar.gz >/dev/null
internal/tools/bin/crane auth login 127.0.0.1:15000 -u bench -p "$WAYBILL_TOKEN" >/dev/null 2>&1
distribution "$registry"
go build -o "$dir/verdict" ./bench/verdict
"$dir/verdict" -waybill 127.0.0.1:15000 -registry 127.0.0.1:15003 -crane internal/tools/bin/crane -cosign internal/tools/bin/cosign -trivy "$trivy" \
	-key "$dir/cosign.key" -cache "$dir/cache" -dir "$dir" -root "$dir/root.tar" "$@"
