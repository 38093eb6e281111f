#!/bin/sh
# Installs what building the project needs and this machine lacks: a C and C++ compiler, Python's venv, Rust 1.88 or later.
# Says nothing and changes nothing where all is there. Debian family only; elsewhere it names what is missing.
set -eu

MINIMUM_RUST_MINOR=88   # edition 2024, let chains

missing=""
need() { missing="$missing $1"; }

rust_is_recent() {
    version=$(cargo --version 2>/dev/null) || return 1
    minor=${version#cargo 1.}
    [ "${minor%%.*}" -ge "$MINIMUM_RUST_MINOR" ] 2>/dev/null
}

{ command -v cc && command -v c++; } >/dev/null || need build-essential
"${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
# Debian 12 calls its recent compiler rustc-web; its plain cargo is too old for this project.
if ! rust_is_recent; then
    if apt-cache show cargo-web >/dev/null 2>&1; then need "rustc-web cargo-web rust-web-clippy rustfmt-web"; else need "cargo rust-clippy rustfmt"; fi
fi

[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing for the build:$missing. Install them (Debian: apt-get install$missing), or run this once as root." >&2
    exit 1
fi
echo "installing for the build:$missing"
apt-get update -qq
# shellcheck disable=SC2086  # a list of package names
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
rust_is_recent || { echo "cargo 1.$MINIMUM_RUST_MINOR or later is needed and this system's packages have none: install Rust by rustup, then run this again." >&2; exit 1; }
