# Sourced by quickstart and bench: builds the release binary, or takes the one that was built from
# exactly these sources before, in this clone or another.

# Prints nothing and sets HOSTLER to the binary.
build_hostler() {
    local cache="${XDG_CACHE_HOME:-$HOME/.cache}/hostler" tree=""
    # The tree's hash names the sources. With uncommitted changes there is no such name.
    if git rev-parse --git-dir >/dev/null 2>&1 && [ -z "$(git status --porcelain 2>/dev/null)" ]; then
        tree=$(git rev-parse 'HEAD^{tree}' 2>/dev/null || true)
    fi
    if [ -n "$tree" ] && [ -x "$cache/bin/$tree/hostler" ]; then
        HOSTLER="$cache/bin/$tree/hostler"
        say "hostler was built from these sources before: $HOSTLER"
        return 0
    fi
    say "building hostler (the first time takes some minutes)"
    local target="${CARGO_TARGET_DIR:-$PWD/target}"
    cargo build --release --locked --package hostler --bin hostler \
        || die "the build failed; what cargo said is above"
    HOSTLER="$target/release/hostler"
    if [ -n "$tree" ]; then
        # Older binaries are of sources that nobody has checked out any more.
        find "$cache/bin" -mindepth 1 -maxdepth 1 -mtime +14 -exec rm -rf {} + 2>/dev/null || true
        mkdir -p "$cache/bin/$tree"
        cp "$HOSTLER" "$cache/bin/$tree/.hostler.$$"
        mv "$cache/bin/$tree/.hostler.$$" "$cache/bin/$tree/hostler"
        HOSTLER="$cache/bin/$tree/hostler"
    fi
}
