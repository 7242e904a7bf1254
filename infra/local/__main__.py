"""`python3 -m infra.local setup|demo|status|clean|layout`; see --help.

Runs with whatever `python3` is, so the version is looked at before anything else is imported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = (3, 11)
ENGINES = ("auto", "cpu", "cuda", "none")
WRONG_PYTHON = """Kasbah needs Python {wanted}; this is Python {found} ({path}),
and there is no working python{wanted} on PATH.
Install it (Debian, Ubuntu: apt install python{wanted} python{wanted}-venv; Fedora: dnf install python{wanted};
anywhere, without root: `uv python install {wanted}` or `pyenv install {wanted}`), or say where it is:
    make demo PYTHON=/path/to/python{wanted}"""


def ensure_version() -> None:
    """Go on as Python 3.11: this one, or the one on PATH; otherwise say what to do and exit with status 2."""
    if sys.version_info[:2] == PYTHON:
        return
    wanted = ".".join(str(part) for part in PYTHON)
    other = shutil.which("python" + wanted)
    probe = "import sys; sys.exit(sys.version_info[:2] != %r)" % (PYTHON,)  # noqa: UP031 - read by older versions too
    if other and subprocess.run([other, "-c", probe], capture_output=True, check=False).returncode == 0:
        os.execv(other, [other, "-m", "infra.local", *sys.argv[1:]])  # noqa: S606
    found = ".".join(str(part) for part in sys.version_info[:3])
    print(WRONG_PYTHON.format(wanted=wanted, found=found, path=sys.executable), file=sys.stderr)
    raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python3 -m infra.local",
        description="Kasbah on one machine: no root, no containers, no GPU needed. KASBAH_HOME names the data folder"
        " (default: .kasbah in the repository).",
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in {
        "setup": "make the environments .venv and .venv-engine; nothing is done when they are as they should be",
        "demo": "start everything, ask one question, and stay up until Ctrl-C",
    }.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument(
            "--engine",
            choices=ENGINES if name == "setup" else ENGINES[:-1],
            default=os.environ.get("ENGINE") or "auto",
            help="vLLM's build; auto takes cuda where there is an NVIDIA GPU (default: %(default)s, or ENGINE)",
        )
        if name == "demo":
            command.add_argument(
                "--bind",
                default=os.environ.get("KASBAH_BIND") or "127.0.0.1:8080",
                metavar="HOST:PORT",
                help="where the control plane listens (default: %(default)s, or KASBAH_BIND)",
            )
            command.add_argument("--once", action="store_true", help="end after the first answer, for tests")
    for name, text in {
        "status": "say whether it runs, and which processes belong to it",
        "clean": "remove the data folder; refused while it runs",
        "layout": "check the layout of the source tree",
    }.items():
        commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return result


def check_words(arguments: argparse.Namespace) -> None:
    """Checks what came from the environment like an argument, which argparse does not. Raises WrongWord."""
    from infra.local.problems import WrongWord, parse_bind

    if (engine := getattr(arguments, "engine", "auto")) not in ENGINES:
        raise WrongWord(f"ENGINE is {engine[:60]!a}; it must be one of {', '.join(ENGINES)}")
    if arguments.command == "demo":
        parse_bind(arguments.bind)


def enter_platform_environment() -> None:
    """Go on with `.venv`'s interpreter, which has the packages that the demo needs."""
    environment = Path(__file__).resolve().parents[2] / ".venv"
    if Path(sys.prefix).resolve() != environment:
        python = str(environment / "bin" / "python")
        os.execv(python, [python, "-m", "infra.local", *sys.argv[1:]])  # noqa: S606


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; the exit status."""
    if arguments.command == "setup":
        from infra.local import environments

        environments.set_up(arguments.engine)
    elif arguments.command == "demo":
        from infra.local import environments

        environments.set_up(arguments.engine)
        enter_platform_environment()
        from infra.local import demo

        return demo.main(bind=arguments.bind, once=arguments.once)
    elif arguments.command == "layout":
        from infra.local import layout

        return layout.main()
    else:
        from infra.local import state

        return {"status": state.status, "clean": state.clean}[arguments.command]()
    return 0


def main() -> int:
    """Entry point. Exit status 0: all went well, 1: an explained problem, 2: a wrong word, 130: Ctrl-C."""
    from inference_worker.contract.settings import SettingError, check_arguments, exit_on_wrong_setting
    from infra.local import interrupts
    from infra.local.problems import Problem, WrongWord

    with exit_on_wrong_setting():
        check_arguments(sys.argv)
    interrupts.hear()
    arguments = parser().parse_args()
    try:
        check_words(arguments)
        return run(arguments)
    except (SettingError, WrongWord) as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to go on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    ensure_version()
    raise SystemExit(main())
