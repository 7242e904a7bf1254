"""The frames that a site's store keeps of an answer, for a client that lost its connection.

Independent of the Dispatcher and of the process that relays the answer: any web process can read them, as long as the
store keeps them (contract.keys.FRAMES_TTL).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

import msgspec
from redis.exceptions import RedisError

from inference_worker.contract import frames as contract_frames
from inference_worker.contract import keys
from inference_worker.contract.frames import Frame
from inference_worker.contract.sealing import CannotOpen, FrameCipher
from kasbah.common.errors import Unavailable
from kasbah.residency.services import SiteRecord
from kasbah.serving.dispatch.replies import SILENCE
from kasbah.serving.dispatch.store import client_of, sealed_frames
from kasbah.serving.replysecret import reply_secret

BLOCK_MS = 1000
COUNT = 256


async def replay(site: SiteRecord, job_id: UUID, attempt: int) -> AsyncGenerator[list[Frame], None]:
    """All frames of an attempt from the first on, then those that come, up to the last one.

    An empty list says that nothing came for a second, so that the caller can see whether anything still will.
    Raises Unavailable.
    """
    stream = keys.frames(str(job_id), attempt)
    cipher = FrameCipher(reply_secret(job_id), str(job_id), attempt)
    last = b"0-0"
    try:
        async with client_of(site.store_url, 2) as client:
            while True:
                async with asyncio.timeout(SILENCE):
                    answer: Any = await client.xread({stream: last}, count=COUNT, block=BLOCK_MS)
                found: list[Frame] = []
                for entry, fields in answer[0][1] if answer else ():
                    found += contract_frames.unpack(cipher.open(*sealed_frames(fields)))
                    last = entry
                yield found
                if found and contract_frames.is_terminal(found[-1]):
                    return
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable("The site that keeps the answer cannot be reached. Try again.", retry_after=2) from error
    except (CannotOpen, msgspec.MsgspecError) as error:
        raise Unavailable("The answer was altered on its way and is withheld.", code="answer_altered") from error
