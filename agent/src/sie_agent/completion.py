"""`sie-agent completion SHELL`: what makes a shell complete this command line, made from its parser."""

import argparse
from collections.abc import Callable
from typing import Final

from sie_agent.cli import EXIT_OK
from sie_agent.outline import Argument, Page, pages


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `completion`."""
    parser.add_argument("shell", choices=list(SHELLS), metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    print(SHELLS[arguments.shell](pages()), end="")
    return EXIT_OK


def bash(outline: list[Page]) -> str:
    """For bash: to be sourced, or put into /etc/bash_completion.d."""
    places = " | ".join(f'"{" ".join(page.words[:-1])} {page.words[-1]}"' for page in outline if page.words)
    values, words = [], []
    for page in outline:
        place = " ".join(page.words)
        for option in page.options:
            if option.metavar:
                pattern = " | ".join(f'"{place}|{name}"' for name in option.names)
                reply = (
                    f'mapfile -t COMPREPLY < <(compgen -W "{" ".join(option.choices)}" -- "$current")'
                    if option.choices
                    else 'mapfile -t COMPREPLY < <(compgen -f -- "$current")'
                    if option.is_file
                    else "COMPREPLY=()"
                )
                values.append(f"        {pattern}) {reply}; return ;;\n")
        offered = [name for option in page.options for name in option.names]
        offered += [name for name, _ in page.commands]
        offered += [
            choice for argument in page.arguments if not argument.names for choice in argument.choices
        ]
        files = "yes" if page.takes_files else ""
        words.append(f'        "{place}") words="{" ".join(offered)}" files={files} ;;\n')
    return (
        "_sie_agent() {\n"
        "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
        '    local place="" words="" files="" word found\n'
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do\n'
        '        case "$place $word" in\n'
        f"            {places}) place=${{place:+$place }}$word ;;\n"
        "        esac\n"
        "    done\n"
        '    case "$place|$previous" in\n' + "".join(values) + "    esac\n"
        "    case $place in\n" + "".join(words) + "    esac\n"
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")\n'
        "    if [[ $files && $current != -* ]]; then\n"
        '        mapfile -t found < <(compgen -f -- "$current")\n'
        '        COMPREPLY+=("${found[@]}")\n'
        "    fi\n"
        "}\n"
        "complete -o filenames -F _sie_agent sie-agent\n"
    )


def zsh(outline: list[Page]) -> str:
    """For zsh: to be put into a folder of $fpath as _sie-agent, or sourced after compinit."""
    lines = ["#compdef sie-agent", ""]
    for page in outline:
        lines += [f"_{'_'.join(['sie_agent', *page.words]).replace('-', '_')}() {{"]
        specs = [_zsh_option(option) for option in page.options]
        specs += [_zsh_positional(argument) for argument in page.arguments if not argument.names]
        if page.commands:
            described = " ".join(f"{_zsh_quoted(f'{name}:{words}')}" for name, words in page.commands)
            lines += [
                "    local context state state_descr line",
                "    typeset -A opt_args",
                f"    local -a commands=({described})",
                f"    _arguments -C {' '.join(specs)} '1:command:->command' '*::argument:->argument'",
                "    case $state in",
                "        command) _describe command commands ;;",
                "        argument)",
                "            case $line[1] in",
            ]
            for name, _ in page.commands:
                function = "_".join(["sie_agent", *page.words, name]).replace("-", "_")
                lines.append(f"                {name}) _{function} ;;")
            lines += ["            esac ;;", "    esac"]
        else:
            lines.append(f"    _arguments {' '.join(specs)}")
        lines += ["}", ""]
    lines += [
        'if [ "$funcstack[1]" = "_sie-agent" ]; then _sie_agent "$@"; else compdef _sie_agent sie-agent; fi',
        "",
    ]
    return "\n".join(lines)


def _zsh_option(option: Argument) -> str:
    value = ""
    if option.metavar:
        value = f":{option.metavar}:"
        value += f"({' '.join(option.choices)})" if option.choices else "_files" if option.is_file else ""
    help_text = option.help.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    return " ".join(_zsh_quoted(f"*{name}[{help_text}]{value}") for name in option.names)


def _zsh_positional(argument: Argument) -> str:
    action = f"({' '.join(argument.choices)})" if argument.choices else "_files" if argument.is_file else ""
    return _zsh_quoted(f":{argument.metavar}:{action}")


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish(outline: list[Page]) -> str:
    """For fish: to be put into a folder of completions as sie-agent.fish, or sourced."""
    lines = ["complete -c sie-agent -f"]
    for page in outline:
        condition = _fish_condition(page)
        for name, words in page.commands:
            lines.append(f"complete -c sie-agent -n {condition} -a {name} -d {_fish_quoted(words)}")
        for option in page.options:
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            value = ""
            if option.choices:
                value = f" -x -a {_fish_quoted(' '.join(option.choices))}"
            elif option.metavar:
                value = " -r -F" if option.is_file else " -x"
            lines.append(
                f"complete -c sie-agent -n {condition} {names}{value} -d {_fish_quoted(option.help)}"
            )
        for argument in page.arguments:
            if not argument.names and argument.choices:
                words = _fish_quoted(" ".join(argument.choices))
                lines.append(f"complete -c sie-agent -n {condition} -a {words}")
        if page.takes_files:
            lines.append(f"complete -c sie-agent -n {condition} -F")
    return "\n".join(lines) + "\n"


def _fish_condition(page: Page) -> str:
    seen = [f"__fish_seen_subcommand_from {word}" for word in page.words] or ["__fish_use_subcommand"]
    if page.words and page.commands:
        seen.append(f"not __fish_seen_subcommand_from {' '.join(name for name, _ in page.commands)}")
    return _fish_quoted("; and ".join(seen))


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Final[dict[str, Callable[[list[Page]], str]]] = {"bash": bash, "zsh": zsh, "fish": fish}
