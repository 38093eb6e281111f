#!/bin/sh
# Installs what the lab and the tests need and this machine lacks: podman and its parts, the image builder, clients and programs of others.
# Says nothing and changes nothing where all is there. Debian family only; elsewhere it names what is missing.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing=""
need() {  # need PROGRAM PACKAGE
    command -v "$1" >/dev/null || missing="$missing $2"
}

need podman podman
need runc runc
[ -x /usr/lib/podman/netavark ] || missing="$missing netavark"
need iptables iptables          # netavark asks for it even on internal networks
need mmdebstrap mmdebstrap
[ -e /usr/share/keyrings/debian-archive-trixie-stable.gpg ] || missing="$missing debian-archive-keyring"
need ip iproute2
need ethtool ethtool
need ssh openssh-client
need dig bind9-dnsutils
need dnsdbq dnsdbq
need nft nftables
need zstd zstd
need curl curl                  # the tests type what the pages of docs/ show
need openssl openssl
need tcpdump tcpdump
[ -e "$(echo /usr/lib/*/faketime/libfaketime.so.1)" ] || missing="$missing libfaketime"  # a test sets a clock by it
need rsync rsync
need sshd openssh-server        # the tests run one of their own; that of the system stays off where it was not there
need go golang-go               # builds the programs of others that the interoperability tests run
/usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"

[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing for the lab:$missing. Install them (Debian: apt-get install$missing), or run this once as root." >&2
    exit 1
fi
echo "installing for the lab:$missing"
apt-get update -qq
# shellcheck disable=SC2086  # a list of package names
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
case $missing in *openssh-server*) systemctl disable --quiet --now ssh.service ssh.socket 2>/dev/null || true ;; esac
