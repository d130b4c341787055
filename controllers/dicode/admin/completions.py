"""Completion scripts: words are completed from here, names by asking `dicode get … -o name`."""

from __future__ import annotations

from dicode.admin.cli import COMMANDS
from dicode.admin.nouns import NOUNS

OF_TASK = "run logs next history diff explain restart suspend resume"
OF_RUN = "cancel replay"
OF_SOURCE = "add remove list sync dev confirm"

_BASH = """\
_dicode_names() { dicode get "$1" -o name 2>/dev/null | cut -d/ -f2-; }
_dicode() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} options=
    if [ "$COMP_CWORD" -eq 1 ]; then options="@COMMANDS@"
    else case " $command " in
        " get "|" describe ") if [ "$COMP_CWORD" -eq 2 ]; then options="@KINDS@"; else options=$(_dicode_names "${COMP_WORDS[2]}"); fi ;;
        " plan ") options=$(_dicode_names sources) ;;
        " source ") if [ "$COMP_CWORD" -eq 2 ]; then options="@OF_SOURCE@"; else options=$(_dicode_names sources); fi ;;
        *) case " @OF_TASK@ " in *" $command "*) options=$(_dicode_names tasks) ;; esac
           case " @OF_RUN@ " in *" $command "*) options=$(_dicode_names runs) ;; esac ;;
    esac; fi
    if [ -n "$options" ]; then COMPREPLY=($(compgen -W "$options" -- "$word")); else COMPREPLY=($(compgen -f -- "$word")); fi
}
complete -F _dicode dicode
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + _BASH
_FISH = """\
function __dicode_names; dicode get $argv[1] -o name 2>/dev/null | string replace -r '^[^/]*/' ''; end
function __dicode_at; test (count (commandline -opc)) -eq $argv[1]; end
complete -c dicode -f -n '__dicode_at 1' -a '@COMMANDS@'
complete -c dicode -f -n '__fish_seen_subcommand_from get describe; and __dicode_at 2' -a '@KINDS@'
complete -c dicode -f -n '__fish_seen_subcommand_from get describe; and __dicode_at 3' -a '(__dicode_names (commandline -opc)[3])'
complete -c dicode -f -n '__fish_seen_subcommand_from source; and __dicode_at 2' -a '@OF_SOURCE@'
complete -c dicode -f -n '__fish_seen_subcommand_from source; and __dicode_at 3' -a '(__dicode_names sources)'
complete -c dicode -n '__fish_seen_subcommand_from plan; and __dicode_at 2' -a '(__dicode_names sources)'
complete -c dicode -f -n '__fish_seen_subcommand_from @OF_TASK@' -a '(__dicode_names tasks)'
complete -c dicode -f -n '__fish_seen_subcommand_from @OF_RUN@' -a '(__dicode_names runs)'
"""


def script(shell: str) -> str:
    """The script for `bash`, `zsh` or `fish`."""
    words = {
        "@COMMANDS@": " ".join(("up", *COMMANDS)),
        "@KINDS@": " ".join(noun.plural for noun in NOUNS),
        "@OF_SOURCE@": OF_SOURCE,
        "@OF_TASK@": OF_TASK,
        "@OF_RUN@": OF_RUN,
    }
    text = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    for mark, value in words.items():
        text = text.replace(mark, value)
    return text
