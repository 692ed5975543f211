# Sourced by quickstart, test and bench: installs what is missing on a Debian machine, and says so.

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# need PROGRAM=PACKAGE...: apt installs the packages whose programs are not there.
need() {
    local missing=() pair
    # Debian keeps mke2fs and its kin where an ordinary user's PATH does not look.
    export PATH="$PATH:/usr/sbin:/sbin"
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 \
            || die "these packages are missing: ${missing[*]}; install them as root"
        sudo=(sudo)
    fi
    command -v apt-get >/dev/null 2>&1 \
        || die "these are missing: ${missing[*]}; install them with your system's package manager"
    say "installing ${missing[*]} (apt)"
    "${sudo[@]}" apt-get update -qq >&2 \
        || die "apt-get update failed; is the Debian mirror reachable?"
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null || die "apt-get could not install ${missing[*]}"
}

# Lists of packages, without which `apt-get download` finds nothing for the guest's image.
need_package_lists() {
    [ -n "$(apt-cache show busybox-static 2>/dev/null)" ] && return 0
    say "fetching the package lists (apt)"
    if [ "$(id -u)" -eq 0 ]; then apt-get update -qq >&2; else sudo apt-get update -qq >&2; fi \
        || die "apt-get update failed; is the Debian mirror reachable?"
}

# need_alone PROGRAM: a program of the package of its name, and nothing else of it. Its package would
# start a server on a port of whoever runs a test.
need_alone() {
    export PATH="$PATH:/usr/sbin:/sbin"
    command -v "$1" >/dev/null 2>&1 && return 0
    local at="${XDG_CACHE_HOME:-$HOME/.cache}/hostler/$1"
    if [ ! -d "$at/usr" ]; then
        say "fetching $1 (apt), without installing it"
        local new="$at.$$"
        mkdir -p "$new"
        (cd "$new" && apt-get download -qq "$1" >/dev/null 2>&1 && dpkg -x "$1"_*.deb .) \
            || die "apt-get could not download $1; is the Debian mirror reachable?"
        rm -rf "$at" && mv "$new" "$at"
    fi
    export PATH="$PATH:$at/usr/sbin:$at/usr/bin"
    command -v "$1" >/dev/null 2>&1 || die "$1 does not run; install Debian's package $1"
}

# The program is one of redis-tools under another name. The package of its own name would start a
# server on a port of whoever runs a test.
need_redis() {
    command -v redis-server >/dev/null 2>&1 && return 0
    need redis-check-rdb=redis-tools
    local at="${XDG_CACHE_HOME:-$HOME/.cache}/hostler/redis"
    mkdir -p "$at"
    ln -sf "$(command -v redis-check-rdb)" "$at/redis-server"
    export PATH="$PATH:$at"
}

need_nginx() {
    need_alone nginx
    nginx -v 2>/dev/null || die "nginx does not run; install Debian's package nginx"
}

# The registry that images are fetched from in tests.
need_docker_registry() { need_alone docker-registry; }

# The programs of PostgreSQL, of which tests start a server of their own. Debian's package would start
# one on the machine's port; so it is unpacked, with the libraries that it lacks, and not installed.
need_postgresql() {
    local bin at new package lib
    for bin in /usr/lib/postgresql/*/bin "$(dirname "$(command -v initdb 2>/dev/null || echo /none/x)")"; do
        [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ] && { export HOSTLER_POSTGRESQL_BIN="$bin"; break; }
    done
    if [ -z "${HOSTLER_POSTGRESQL_BIN:-}" ]; then
        # Root's tests run it as nobody, who must be able to read it.
        at="${XDG_CACHE_HOME:-$HOME/.cache}/hostler/postgresql"
        [ "$(id -u)" -eq 0 ] && at=/var/cache/hostler/postgresql
        if [ ! -d "$at/usr" ]; then
            need_package_lists
            package=$(apt-cache depends postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p')
            say "fetching $package (apt), without installing it"
            new="$at.$$"
            mkdir -p "$new"
            lib=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
                --no-breaks --no-replaces --no-enhances "$package" | grep '^lib' | sort -u \
                | while read -r lib; do dpkg -s "$lib" >/dev/null 2>&1 || echo "$lib"; done)
            # shellcheck disable=SC2086
            (cd "$new" && chmod 755 . && apt-get download -qq "$package" $lib >/dev/null 2>&1 \
                && for package in *.deb; do dpkg -x "$package" .; done && rm -f ./*.deb) \
                || die "apt-get could not download PostgreSQL; is the Debian mirror reachable?"
            rm -rf "$at" && mv "$new" "$at"
        fi
        for bin in "$at"/usr/lib/postgresql/*/bin; do export HOSTLER_POSTGRESQL_BIN="$bin"; done
        for lib in "$at"/usr/lib/*-linux-gnu; do
            export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        done
    fi
    "$HOSTLER_POSTGRESQL_BIN/postgres" --version >/dev/null 2>&1 \
        || die "PostgreSQL does not run; install Debian's package postgresql"
    [ "$(id -u)" -ne 0 ] || need setpriv=util-linux
}

# Debian has Python without the part that makes environments.
need_python_environments() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || need a-python-environment=python3-venv
}

need_cargo() {
    [ -r "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    command -v cargo >/dev/null 2>&1 || die "there is no cargo; install Rust from https://rustup.rs"
    need cc=gcc make=make
}
