#compdef pipebus
# Completes pipebus in zsh. It asks pipebus what could come next, and pipebus asks the bus.
_pipebus() {
    local line
    local -a described directories
    for line in "${(@f)$(pipebus complete --quoted all -- "${(@)words[1,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] || continue
        local value=${line%%$'\t'*} text=${line#*$'\t'}
        value=${${value//\\/\\\\}//:/\\:}
        if [[ $value == */ ]]; then
            directories+=("$value")
        else
            described+=("$value:$text")
        fi
    done
    (( $#directories )) && _describe -V directory directories -S ''
    (( $#described )) && _describe -V value described
}
# Read from a directory of fpath, this file is the function; sourced, it says which one is.
if [[ $funcstack[1] == _pipebus ]]; then
    _pipebus "$@"
else
    compdef _pipebus pipebus
fi
