# What the scripts of this repository need on a fresh Debian 12, and how it is installed.
#
# Owns: finding and installing Debian packages and Rust, saying what is done.
# Does not own: what the scripts do with them.
# To be sourced from bash. Nothing is installed that is already there, and nothing is changed
# outside the package system (Rust from Debian's rustup goes to ~/.cargo and ~/.rustup).
#
#   require_packages postgresql pgbouncer    installs what is missing
#   require_rust                             puts cargo into PATH or explains how to get it

say() {
    printf '==> %s\n' "$*" >&2
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "needs root to run: $*
Run that as root, or install sudo, and start again."
    fi
}

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Whether apt knows a version of the package that it could install.
is_available() {
    apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [0-9]'
}

update_package_lists() {
    # Once a run; the lists of a fresh system are empty.
    [ -n "${package_lists_updated:-}" ] && return
    say 'Updating the package lists'
    as_root apt-get update --quiet=2
    package_lists_updated=yes
}

# require_packages PACKAGE...
require_packages() {
    command -v dpkg-query >/dev/null ||
        fail "this is no Debian; install the counterparts of these packages yourself: $*"
    local package missing=()
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" -eq 0 ] && return
    update_package_lists
    say "Installing ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}" >&2
}

# Puts cargo into PATH. Debian 12's own Rust is too old, so it comes from rustup.
require_rust() {
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    command -v cargo >/dev/null && return
    update_package_lists
    if is_available rustup; then
        require_packages rustup
        say 'Installing the stable Rust toolchain with rustup'
        rustup default stable >&2
        return
    fi
    fail "Rust is not installed, and this Debian has no rustup package. Install it with

    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh

(see https://rustup.rs; needs the packages curl and ca-certificates) and start again."
}
