#!/usr/bin/env bash
# Passes all tests, on a fresh machine too: given the Rust toolchain, and as root with apt, it installs the rest.
#
# What can't be tested where it runs (not root, no systemd) is skipped, and the test says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
source tests/step.sh

# Commands and files that tests use, and Debian's packages that have them.
needed=(
    cc:gcc tmux:tmux tshark:tshark
    unshare:util-linux nsenter:util-linux setpriv:util-linux mount:mount prlimit:util-linux
    /usr/lib/python3/dist-packages/prometheus_client/parser.py:python3-prometheus-client
    /lib/systemd/systemd:systemd systemctl:systemd systemd-analyze:systemd systemd-sysusers:systemd
    bash:bash zsh:zsh fish:fish setsid:util-linux mandoc:mandoc
    make:make strip:binutils dpkg-shlibdeps:dpkg-dev
)

install_missing() {
    local missing=() entry
    for entry in "${needed[@]}"; do
        command -v "${entry%:*}" >/dev/null || [[ -e ${entry%:*} ]] || missing+=("${entry#*:}")
    done
    ((${#missing[@]})) || return 0
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    else
        echo "missing, and some tests will be skipped without: ${missing[*]}" >&2
    fi
}

if ! command -v cargo >/dev/null && [[ -f $HOME/.cargo/env ]]; then
    source "$HOME/.cargo/env"
fi
command -v cargo >/dev/null || { echo "there is no cargo; see https://rustup.rs" >&2; exit 1; }

step "What the tests need" install_missing
step "Programs" cargo build --workspace --all-features --bins
step "Tests" cargo test --workspace --all-features

# The same programs for Windows, and their stories under Wine. What Wine can't show is in docs/windows.md.
windows=tests/windows/cargo-windows
if [[ $EUID -eq 0 && $(dpkg --print-architecture 2>/dev/null) == amd64 ]] && command -v apt-get >/dev/null; then
    step "What Windows needs" bash tests/windows/setup.sh
fi
if bash "$windows" --env >/dev/null 2>&1; then
    export CARGO_PROFILE_DEV_DEBUG=0 PIPEBUS_TESTS_MAY_INSTALL=1
    step "Programs for Windows" bash "$windows" build --bins
    step "Tests on Windows" bash "$windows" test --workspace --exclude pipebus-tests \
        --lib --bins --tests
else
    echo "skipped: the programs for Windows; tests/windows/setup.sh, run by root on Debian 12, makes them possible" >&2
fi
finish "All tests have passed"
