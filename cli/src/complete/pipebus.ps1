# Completes pipebus in PowerShell. It asks pipebus what could come next, and pipebus asks the bus.
Register-ArgumentCompleter -Native -CommandName pipebus, pipebus.exe -ScriptBlock {
    param($word, $line, $cursor)
    # The words up to the cursor, as PowerShell would hand them over.
    $words = @($line.CommandElements | Where-Object { $_.Extent.StartOffset -lt $cursor } | ForEach-Object {
        if ($_ -is [System.Management.Automation.Language.StringConstantExpressionAst]) { $_.Value } else { $_.Extent.Text }
    })
    $quoted = @()
    # PowerShell before 7.3 hands no empty word to a program, but two quotes that stand for one.
    if ($word -eq '') { $words += "''"; $quoted = '--quoted', 'last' }
    pipebus complete @quoted -- @words 2>$null | ForEach-Object {
        $value, $text = $_ -split "`t", 2
        if (-not $text) { $text = $value }
        $shown = $value
        # What PowerShell would not take as it is stands in quotes.
        if ($value -match '[^\w./:\\+=%-]') { $value = "'" + $value.Replace("'", "''") + "'" }
        [System.Management.Automation.CompletionResult]::new($value, $shown, 'ParameterValue', $text)
    }
}
