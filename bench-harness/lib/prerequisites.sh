# What the scripts of this repository need on a fresh Debian 12, and how it is installed.
#
# Owns: finding and installing Debian packages and Rust, saying what is done.
# Does not own: what the scripts do with them.
# To be sourced from bash. Nothing is installed that is already there, and nothing is changed
# outside the package system (Rust goes to ~/.cargo and ~/.rustup).
#
#   require_packages postgresql pgbouncer    installs what is missing
#   require_rust rustfmt clippy              puts cargo into PATH, with these components

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

# require_rust [COMPONENT...]
#
# Puts cargo into PATH, and installs it with these components of rustup if they are not there.
# Debian 12's own Rust is too old, so it comes from rustup: Debian's if it has one, else rustup.rs.
require_rust() {
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if ! command -v cargo >/dev/null; then
        update_package_lists
        say 'Installing the stable Rust toolchain with rustup'
        if is_available rustup; then
            require_packages rustup
            rustup default stable >&2
        else
            require_packages ca-certificates curl
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
                sh -s -- -y --no-modify-path --profile minimal >&2
        fi
    fi
    local component
    for component in "$@"; do
        # The command of rustfmt is `cargo fmt`, others have their own names.
        cargo "${component#rust}" --version >/dev/null 2>&1 || rustup component add "$component" >&2
    done
}
