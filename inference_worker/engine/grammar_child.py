"""Compiles JSON schemas into grammars as the engine would, each in a process that may be killed for taking too long.

    python grammar_child.py MODEL_FOLDER SECONDS

Run by the engine's own interpreter, in whose environment nothing of Kasbah is installed. Prints `ready`, then for each
line of its standard input (a JSON list of schemas) the letter of a verdict. Ends with its standard input.

The engine compiles on threads beside its scheduler, and nothing can stop them: whoever sends a schema that takes
minutes slows all others. So it is compiled here first. Every line is worked on in a fork that the kernel ends after
SECONDS of a processor (RLIMIT_CPU), which load from elsewhere does not shorten, or beyond MEMORY. xgrammar's own errors
are left to the engine, which has other means for some schemas and refuses the rest.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

MEMORY = 2 * 2**30  # bytes of address space beyond what the process has before
NICE = 10
PATIENCE = 6  # times SECONDS by the clock, where a processor is not to be had
OK, EMPTY, INVALID, LATE, BUSY = "o", "e", "i", "l", "b"
EXITS = {0: OK, 3: EMPTY, 4: INVALID}


def vocabulary(folder: Path) -> Any:
    """xgrammar's view of the model's tokenizer; of a made-up one where it has none that is known here."""
    import xgrammar

    try:
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=config.vocab_size)
    except Exception:  # noqa: BLE001 - the engine may know tokenizers that are not known here
        letters = [chr(code) for code in range(32, 127)]
        words = [*letters, *(one + other for one in letters for other in letters)]
        return xgrammar.TokenizerInfo(["<end>", *words], vocab_size=len(words) + 1, stop_token_ids=[0])


def compile_all(schemas: list[Any], tokens: Any) -> int:
    """Exit status of a fork: what became of the schemas."""
    import xgrammar

    compiler = xgrammar.GrammarCompiler(tokens, max_threads=1, cache_enabled=False)
    for schema in schemas:
        text = json.dumps(schema)
        try:
            xgrammar.Grammar.from_json_schema(text)
        except Exception:  # noqa: BLE001, S112 - the engine says why
            continue
        try:
            matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(text))
            mask = xgrammar.allocate_token_bitmask(1, tokens.vocab_size)
            matcher.fill_next_token_bitmask(mask, 0)
        except Exception:  # noqa: BLE001 - which the engine would meet when it is too late for a 400
            return 4
        if not mask.any():
            return 3
    return 0


def verdict(schemas: list[Any], tokens: Any, seconds: int) -> str:
    """Of a fork, by its exit status or the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 4
        try:
            _limit(seconds)
            status = compile_all(schemas, tokens)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return BUSY if status == -signal.SIGALRM else EXITS.get(status, LATE)


def _limit(seconds: int) -> None:
    for ended_by in (signal.SIGXCPU, signal.SIGALRM):
        signal.signal(ended_by, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # a fork's own time begins at nothing
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(seconds * PATIENCE)


def main(folder: str, seconds: str) -> None:
    """Answer until the worker is gone."""
    launch = importlib.import_module("launch")  # beside this file
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).parent)]
    launch.guard()
    os.nice(NICE)
    tokens = vocabulary(Path(folder))
    print("ready", flush=True)
    for line in sys.stdin:
        print(verdict(json.loads(line), tokens, int(seconds)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
