# Sourced by tests/run.sh and .ci/run: a heading and the seconds of each step.

# step HEADING COMMAND...: ends the script if the command fails.
step() {
    local heading=$1 start=$SECONDS status=0
    shift
    printf '\n==> %s\n' "$heading"
    "$@" || status=$?
    if ((status)); then
        printf '==> %s: FAILED (exit code %d) after %d s\n' "$heading" "$status" $((SECONDS - start)) >&2
        exit "$status"
    fi
    printf '==> %s: %d s\n' "$heading" $((SECONDS - start))
}

finish() {
    printf '\n==> %s, in %d s\n' "$1" "$SECONDS"
}
