# Completes pipebus in fish. It asks pipebus what could come next, and pipebus asks the bus.
function __pipebus_complete
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    set --append words (commandline --current-token --cut-at-cursor)
    command pipebus complete --quoted last -- $words 2>/dev/null
end
complete --command pipebus --no-files --keep-order --arguments '(__pipebus_complete)'
