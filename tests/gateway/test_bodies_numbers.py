"""Numbers in the bodies of the inference API: what no field holds is refused by the field's name, in few words."""

from __future__ import annotations

import pytest

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies import base, chat, completion

FIELDS = ["max_tokens", "n", "seed", "top_k", "top_logprobs", "temperature", "logit_bias"]


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "1e400", "-1e999", "99999999999999999999"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_number_out_of_range_is_named(field: str, number: str) -> None:
    value = f'{{"1": {number}}}' if field == "logit_bias" else number
    body = f'{{"model": "mini", "messages": [{{"role": "user", "content": "x"}}], "{field}": {value}}}'
    with pytest.raises(Invalid) as refused:
        base.decode(chat.DECODER, body.encode()).check(2048)
    assert (refused.value.param or "").startswith(field)
    assert len(refused.value.message) < 120


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_beyond_the_context_is_named_as_it_was_sent(field: str) -> None:
    body = f'{{"model": "mini", "messages": [{{"role": "user", "content": "x"}}], "{field}": 5000}}'
    with pytest.raises(Invalid) as refused:
        base.decode(chat.DECODER, body.encode()).check(2048)
    assert refused.value.param == field


@pytest.mark.parametrize("number", ["9" * 5000, "1e400", "-1", "1.5"])
def test_a_token_id_out_of_range_is_named(number: str) -> None:
    with pytest.raises(Invalid) as refused:
        base.decode(completion.DECODER, f'{{"model": "mini", "prompt": [{number}]}}'.encode())
    assert (refused.value.param or "").startswith("prompt")
