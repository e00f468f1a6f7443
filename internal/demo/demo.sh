#!/usr/bin/env bash
# Waybill's whole job on real images with real clients; `make demo` runs it after installing what it needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/bin:$PWD/internal/tools/bin:/usr/sbin:/sbin:$PATH"
unset "${!WAYBILL_@}"

port=${DEMO_PORT:-8080}
work=$PWD/.demo
data=$work/data
rm -rf "$work"
mkdir -p "$work"
chmod 711 "$work"
export DOCKER_CONFIG=$work/docker

bold=$'\e[1m' green=$'\e[32m' dim=$'\e[2m' off=$'\e[0m'
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || { bold='' green='' dim='' off=''; }
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
run() { printf '%s$ %s%s\n' "$dim" "$(hide <<<"$*")" "$off"; "$@"; }
# refused runs a command that must fail, and shows what it says.
refused() {
    printf '%s$ %s%s\n' "$dim" "$(hide <<<"$*")" "$off"
    if "$@" >"$work/refused.log" 2>&1; then
        echo "demo: this must have been refused: $*" >&2
        exit 1
    fi
    sed 's/^/  /' "$work/refused.log"
    printf '%s  refused, as it should be%s\n' "$green" "$off"
}
# await repeats a command until it succeeds: signatures and scans follow a push by a second or two.
await() {
    for _ in $(seq 120); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.5
    done
    echo "demo: waited a minute for: $*" >&2
    "$@"
}
as() { WAYBILL_TOKEN=$1 "${@:2}"; }
# hide keeps tokens out of what is shown.
hide() { sed -E 's/wbt_[A-Za-z0-9_-]+/…/g'; }
scanned() { [ "$(waybill scan "$1" --output json | jq -r .state)" = scanned ]; }
signed() {
    local digest
    digest=$(waybill show "$1" --output json | jq -r .manifest.digest)
    curl -fsS -u "x:$WAYBILL_TOKEN" "$WAYBILL_URL/v2/$(cut -d: -f1 <<<"$1" | cut -d@ -f1)/manifests/${digest/:/-}.sig"
}

step "1. Start: a private PostgreSQL, keys and an admin token, all in one folder"
waybill serve --data "$data" --listen "127.0.0.1:$port" >"$work/serve.out" 2>"$work/serve.log" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT
for _ in $(seq 240); do
    curl -fsS "http://127.0.0.1:$port/readyz" >/dev/null 2>&1 && break
    kill -0 $server 2>/dev/null || { cat "$work/serve.log" >&2; exit 1; }
    sleep 0.25
done
host=127.0.0.1:$port
export WAYBILL_URL=http://$host
admin=$(cat "$data/admin.token")
echo "serving on $WAYBILL_URL"

step "2. Who may do what: a pusher, a promoter, and a deployer of production"
pusher=$(as "$admin" waybill token create --role pusher --repository 'shop/**')
promoter=$(as "$admin" waybill token create --role promoter --repository 'shop/**')
deployer=$(as "$admin" waybill token create --role deployer --repository 'shop/**' --environment production)
echo "three tokens, each shown once, stored hashed"
export WAYBILL_TOKEN=$pusher
run as "$admin" waybill db import examples/advisories/db.tar.gz

step "3. Build once: the same folder is the same digest, and is not built again"
run waybill build -t shop/returns:v456 examples/returns
run waybill build -t shop/returns:v456 examples/returns
returns=$(waybill show shop/returns:v456 --output json | jq -r .manifest.digest)

step "4. Real Debian images, made here with mmdebstrap: one as it should be, one with sshd, one that runs as root"
# Plain bookworm, without its security updates, so that there is something to find.
mirror="deb $(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Release: bookworm' | sed -n 1p) bookworm main"
mmdebstrap --variant=minbase --quiet bookworm "$work/debian.tar" "$mirror"
mmdebstrap --variant=minbase --quiet --include=openssh-server bookworm "$work/sshd.tar" "$mirror"
image() { # archive, user, name: an OCI layout, as a build would leave it
    umoci init --layout "$work/oci-$3" && umoci new --image "$work/oci-$3:v1"
    umoci raw add-layer --image "$work/oci-$3:v1" "$1"
    umoci config --image "$work/oci-$3:v1" --config.user "$2" --config.cmd /bin/sh
}
image "$work/debian.tar" 65532:65532 debian
image "$work/sshd.tar" 65532:65532 sshd
image "$work/debian.tar" root root
du -sh "$work"/oci-* | sed "s|$work/||"

step "5. Policy at push: sshd and root are denied, with every reason, where the pusher looks"
echo "$pusher" | run skopeo login --tls-verify=false --authfile "$work/auth.json" -u ci --password-stdin "$host"
push() { skopeo copy --quiet --dest-tls-verify=false --authfile "$work/auth.json" "$@"; }
refused push "oci:$work/oci-sshd:v1" "docker://$host/shop/sshd:v1"
refused push "oci:$work/oci-root:v1" "docker://$host/shop/root:v1"

step "6. The same Debian with a user of its own is accepted, scanned and signed"
run push "oci:$work/oci-debian:v1" "docker://$host/shop/debian:v1"
echo "accepted"
run waybill verdict shop/debian:v1
await scanned shop/debian:v1
waybill scan shop/debian:v1 | sed -n 1,20p
await signed shop/debian:v1
await signed "shop/returns@$returns"
run waybill key public | tee "$work/waybill.pub"
mkdir -p "$DOCKER_CONFIG" && cp "$work/auth.json" "$DOCKER_CONFIG/config.json"
run cosign verify --key "$work/waybill.pub" --insecure-ignore-tlog=true --allow-http-registry "$host/shop/returns@$returns" 2>&1 | grep -v '^WARNING' | sed -n 1,12p

step "7. Build on it, with a step that runs there: BuildKit does, once, and again to the same digest"
mkdir "$work/listed"
cat >"$work/listed/Dockerfile" <<'DOCKERFILE'
FROM shop/debian:v1
USER root
RUN dpkg-query --show >/usr/share/packages.txt
USER 65532:65532
CMD ["cat", "/usr/share/packages.txt"]
DOCKERFILE
if [ "$(id -u)" = 0 ]; then
    run waybill build -t shop/listed:v1 "$work/listed" 2>&1 | grep -v '^#[0-9]* \(sha256\|exporting\|rewriting\|transferring\|sending\)'
    run waybill build -t shop/listed:v1 --rebuild-check "$work/listed" 2>/dev/null
    await waybill provenance shop/listed:v1
    run waybill provenance shop/listed:v1
    run waybill bases shop/listed:v1
else
    echo "left out: the private BuildKit daemon needs root, or name another with builder.buildkit.address"
fi

step "8. Promote one digest through dev, staging and production; production first is refused"
export WAYBILL_TOKEN=$promoter
refused waybill promote returns v456 production
for environment in dev staging production; do
    run waybill promote returns v456 $environment --reason "release 2026.47"
done
run waybill status

step "9. A deployer pulls what is promoted to production, and nothing else"
export WAYBILL_TOKEN=$deployer
echo "$deployer" | skopeo login --tls-verify=false --authfile "$work/deployer.json" -u node --password-stdin "$host" >/dev/null
pull() { skopeo copy --quiet --src-tls-verify=false --authfile "$work/deployer.json" "docker://$host/$1" "oci:$work/pulled:$2"; }
run pull shop/returns:production production && echo "pulled"
run pull "shop/returns@$returns" digest && echo "pulled"
refused pull shop/debian:v1 debian

step "10. Verify the signature, the promotion and its proof; audit the ledger"
run waybill verify "shop/returns@$returns" --environment production
run as "$admin" waybill audit

step "Done. The page with all of it, from the same data folder:"
kill $server
wait $server 2>/dev/null || true
trap - EXIT
echo "(sign in with the token in .demo/data/admin.token)"
echo "bin/waybill serve --data .demo/data --listen 127.0.0.1:$port"
