# bash completion for `alias docker=hoy`
. /usr/share/bash-completion/completions/hoy
complete -p docker >/dev/null 2>&1 || complete -o bashdefault -o default docker
