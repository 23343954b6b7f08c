# Completes pipebus in bash. It asks pipebus what could come next, and pipebus asks the bus.
_pipebus() {
    local word words=() candidate candidates
    # readline cuts words at = and :, too; they are put together again.
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if ((${#words[@]})) && [[ $word == [=:]* || ${words[-1]} == *[=:] ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
    done
    # What of the last word readline will not replace, and so must not come again.
    local kept=${words[-1]%"$2"}
    COMPREPLY=()
    mapfile -t candidates < <(pipebus complete --quoted all -- "${words[@]}" 2>/dev/null)
    for candidate in "${candidates[@]}"; do
        candidate=${candidate%%$'\t'*}
        [[ $candidate == */ || $candidate == *= ]] && compopt -o nospace
        candidate=${candidate#"$kept"}
        # Within quotes nothing needs to be quoted.
        [[ ${words[-1]} == [\'\"]* || $candidate == '~/'* ]] || printf -v candidate %q "$candidate"
        COMPREPLY+=("$candidate")
    done
}
complete -o nosort -F _pipebus pipebus
