"""`python -m benchmarks.classifier`: what looking through a request's text for personal data costs, and what it finds.

One process, one core. Ordinary texts are sentences with one piece of personal data every thousand characters; hostile
ones are made to be slow. Recall and precision are those of the made-up texts of tests/residency/samples.py: how well
the detectors do what they were made for, not how well they would do on the texts of an organisation.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable

import django
import msgspec

from benchmarks.table import show

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kasbah.config.settings")
os.environ.setdefault("KASBAH_SECRET_KEY", "benchmark")
django.setup()

from kasbah.gateway.classifying import Classifying  # noqa: E402
from kasbah.residency.classification.text import normal  # noqa: E402
from kasbah.residency.services.classification import LONGEST, look, text_of  # noqa: E402
from tests.residency.samples import KINDS, quality  # noqa: E402

SENTENCES = {
    "English": "The residence of personal data must be known before a request is sent anywhere, in 2026 as before. ",
    "French": "L'hébergement des données à caractère personnel est connu avant l'envoi, en 2026 comme avant. ",
    "Arabic": "يجب معرفة مكان معالجة البيانات الشخصية قبل إرسال أي طلب، في عام 2026 كما في السابق. ",
    "Japanese": "個人データが処理される場所は、2026年も以前と同様に、要求が送信される前に知られている。",
}
HOSTILE = {
    "digits": "1",
    "short groups of digits": "1 2 ",
    "at signs": "@",
    "nearly telephone numbers": "0112345678 ",
    "nearly IBANs": "FR7630006000011234567890188 ",
    "nearly payment cards": "4111111111111112 ",
    "nearly identity cards": "ab12345 ",
}
LENGTHS = (1_000, 10_000, 100_000)


def body(sentence: str, size: int) -> bytes:
    """A request of about `size` bytes as the engine would be given it."""
    thousand = sentence * (1000 // len(sentence.encode()) + 1) + "ada@example.org "
    text = (thousand * (size // len(thousand.encode()) + 1)).encode()[:size].decode(errors="ignore")
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": text}]})


def milliseconds(run: Callable[[], object], tries: int) -> float:
    """Median CPU time of a run."""
    times = []
    for _ in range(tries):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return statistics.median(times) * 1000


def whole(data: bytes) -> None:
    """What a request costs: from its body to what was found."""
    look(text_of(data)[0], KINDS)


async def longest_stall(data: bytes) -> tuple[float, float]:
    """Milliseconds of CPU to look through a long text beside the event loop, and the longest that the loop stood."""
    classifying, stalls, loop = Classifying(None, patience=60), [0.0], asyncio.get_running_loop()

    async def tick() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            stalls.append(loop.time() - before - 0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    started = time.process_time()
    await classifying.look(data, KINDS)
    took = time.process_time() - started
    ticking.cancel()
    classifying.close()
    return took * 1000, max(stalls) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=30, help="runs of which the median is shown (30)")
    tries = parser.parse_args().tries
    random.seed(1)
    whole(body(SENTENCES["Arabic"], 1000))  # tables are made on first use
    rows = []
    for name, sentence in SENTENCES.items():
        bodies = [body(sentence, size) for size in LENGTHS]
        cost = [milliseconds(lambda data=data: whole(data), tries) for data in bodies]  # type: ignore[misc]
        rows.append([name, *(f"{each:.2f}" for each in cost), f"{len(bodies[-1]) / cost[-1] / 1000:.1f}"])
    show("Added to a request, ms of CPU", ["text", *(f"{size // 1000} kB" for size in LENGTHS), "MB/s"], rows)
    rows = []
    for name, piece in HOSTILE.items():
        data = msgspec.json.encode(piece * (10_000_000 // len(piece)))
        took, stall = asyncio.run(longest_stall(data))
        rows.append([name, f"{took:.0f}", f"{stall:.0f}"])
    title = f"10 MB made to be slow, of which {LONGEST:,} characters are looked through, beside the event loop"
    show(title, ["text", "ms of CPU", "longest stall of the loop, ms"], rows)
    by_kind, flagged = quality(lambda text: look(normal(text), KINDS))
    show(
        "On made-up texts in four languages",
        ["kind", "recall", "precision"],
        [[kind, f"{found.recall:.1%}", f"{found.precision:.1%}"] for kind, found in by_kind.items()],
    )
    print(f"\nTexts without personal data in which some was found: {flagged:.2%}")


if __name__ == "__main__":
    main()
