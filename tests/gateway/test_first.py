from __future__ import annotations
import openai


def test_chat(stack, client_of):
    client = openai.OpenAI(base_url=stack.web.url + "/v1", api_key=client_of.key_text, max_retries=0)
    answer = client.chat.completions.create(model="mini", messages=[{"role": "user", "content": "hi [[tokens=3]]"}])
    assert answer.choices[0].message.content == " t0 t1 t2"
    chunks = list(
        client.chat.completions.create(
            model="mini", messages=[{"role": "user", "content": "hi [[tokens=3]]"}], stream=True
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == " t0 t1 t2"
