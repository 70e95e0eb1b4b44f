# Sourced by the other scripts: where things lie, how to speak, how to get a Python environment.
#
# Everything fetched or compiled goes to one cache outside the clone (MALLARD_CACHE), so that a second clone, or a
# clean one, compiles and downloads nothing again.

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
CACHE="${MALLARD_CACHE:-$HOME/.cache/mallard}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"

# Progress and complaints go to stderr: stdout is for results.
say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Remembers what could not be checked; scripts/test repeats it in its summary, so that it is not lost in the output.
note() {
    say "NOT CHECKED: $*"
    [ -z "${MALLARD_NOTES:-}" ] || printf '%s\n' "$*" >>"$MALLARD_NOTES"
}

# venv_for FILE: prints the folder of a virtual environment that holds exactly the requirements in FILE. It is made
# once for each content of FILE and Python version; a lock makes two callers at once wait for each other.
venv_for() {
    local requirements="$1" hash venv
    hash="$( (python3 --version && cat "$requirements") | sha256sum | cut -c1-12)"
    venv="$CACHE/venv-$hash"
    mkdir -p "$CACHE"
    (
        flock 9
        if [ ! -e "$venv/.ready" ]; then
            say "making a Python environment for ${requirements#"$REPO"/}"
            rm -rf "$venv"
            python3 -m venv "$venv" >&2 &&
                "$venv/bin/python" -m pip --disable-pip-version-check install --quiet -r "$requirements" >&2 &&
                touch "$venv/.ready"
        fi
    ) 9>"$venv.lock" || return 1
    [ -e "$venv/.ready" ] || return 1
    printf '%s\n' "$venv"
}
