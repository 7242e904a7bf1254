"""What is kept of a request's content, as its policy says: nothing, a commitment, or the sealed bytes as well.

Where the policy says `none` nothing here is called but `place`, which looks one word up.
"""

from __future__ import annotations

from kasbah.audit.models import Part
from kasbah.audit.services import content
from kasbah.audit.services.content import Place, Record
from kasbah.gateway.runtime import Runtime
from kasbah.identity.services import Principal
from kasbah.residency.services import KEPT, CompiledPolicy, Decision


def place(policy: CompiledPolicy | None, principal: Principal, decision: Decision, request_id: str) -> Place | None:
    """Where content of this request goes; None: nothing of it is kept.

    Of a request that was raised is kept what both classes let, for as long as both let.
    """
    if policy is None or (level := min(map(policy.content, decision.classes), key=KEPT.index)) == content.NONE:
        return None
    ceilings = [policy.retention(data_class).ceiling_days for data_class in decision.classes]
    return Place(
        tenant_id=principal.tenant_id,
        project_id=principal.project_id,
        request_id=request_id,
        data_class=decision.data_class,
        level=level,
        policy=decision.policy,
        ceiling_days=min(filter(None, ceilings), default=0),  # 0: none is given
    )


async def prompt(runtime: Runtime, where: Place | None, data: bytes) -> Record | None:
    """The record of a prompt: the bytes of the request's body as they came. Raises Unavailable."""
    if where is None:
        return None
    key = await runtime.vault.key(where.tenant_id)
    return content.make(key, where, part=Part.PROMPT.value, form=content.BODY, content=data)


async def answer(runtime: Runtime, where: Place | None, form: str, said: bytes) -> Record | None:
    """The record of what a client was answered, if it was answered anything. Raises Unavailable."""
    if where is None or not said:
        return None
    key = await runtime.vault.key(where.tenant_id)
    return content.make(key, where, part=Part.ANSWER.value, form=form, content=said)
