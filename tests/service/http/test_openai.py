import base64

import anyio
import numpy as np
import openai
import pytest

from service.errors import EngineFailure, Overloaded
from service.http.openai import parse_model


@pytest.fixture
def ask(address):
    """Calls of the unmodified client, from a thread as its users make them."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)

    async def ask(function, **options):
        return await anyio.to_thread.run_sync(lambda: function(client, **options))

    yield ask
    client.close()


def embed(client, **options):
    return client.embeddings.create(**({"model": "tiny"} | options))


def raw(client, **options):
    return client.embeddings.with_raw_response.create(**({"model": "tiny"} | options))


async def test_the_clients_default_equals_float_mode_to_the_bit(ask):
    default = await ask(embed, input=["one", "two"])
    floats = await ask(embed, input=["one", "two"], encoding_format="float")
    coded = await ask(embed, input=["one", "two"], encoding_format="base64")
    for a, b, c in zip(default.data, floats.data, coded.data, strict=True):
        exact = np.array(a.embedding, dtype="<f4")
        assert np.array_equal(exact, np.array(b.embedding, dtype="<f4"))
        assert base64.b64decode(c.embedding) == exact.tobytes()
    assert default.model == "tiny/1"
    assert default.usage.prompt_tokens == default.usage.total_tokens == 10


async def test_order_is_kept_for_as_many_texts_as_the_api_allows(ask):
    answer = await ask(embed, input=[f"{n}" for n in range(2048)])
    assert [each.index for each in answer.data] == list(range(2048))
    alone = await ask(embed, input="2047")
    assert np.dot(alone.data[0].embedding, answer.data[-1].embedding) > 1 - 1e-5


async def test_dimensions_give_unit_vectors_of_that_length(ask):
    (only,) = (await ask(embed, input="one", dimensions=8)).data
    assert len(only.embedding) == 8
    assert np.linalg.norm(only.embedding) == pytest.approx(1, abs=1e-5)
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(embed, input="one", dimensions=2000)
    assert refused.value.param == "dimensions"


@pytest.mark.parametrize(
    ("options", "role"),
    [
        ({}, "passage"),
        ({"model": "tiny:query"}, "query"),
        ({"model": "tiny/1:passage"}, "passage"),
        ({"extra_body": {"input_type": "search_query"}}, "query"),
        ({"model": "tiny:passage", "extra_body": {"input_type": "query"}}, "query"),
        ({"user": "somebody", "extra_body": {"unknown": {"to": "us"}}}, "passage"),
    ],
)
async def test_the_role_is_said_by_the_model_or_an_extra_key(ask, options, role):
    answer = await ask(raw, input="one", **options)
    assert answer.headers["x-isogloss-role"] == role


@pytest.mark.parametrize("model", ["other", "tiny/2", "tiny:both", "", "tiny/1/1"])
async def test_an_unknown_model_is_not_found(ask, model):
    with pytest.raises(openai.NotFoundError) as refused:
        await ask(embed, input="one", model=model)
    assert refused.value.code == "model_not_found"


async def test_token_ids_are_refused_with_the_switch_that_turns_them_off(ask):
    for ids in ([57668, 53901], [[57668, 53901], [1]]):
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as no:
            await ask(embed, input=ids)
        assert no.value.code == "token_input_unsupported"
        assert no.value.param == "input"


@pytest.mark.parametrize("text", ["", [], ["a", ""], "a\0", 5])
async def test_an_input_that_is_no_text_is_a_bad_request(ask, text):
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(embed, input=text)
    assert refused.value.type == "invalid_request_error"
    assert refused.value.param == "input"


async def test_the_request_id_and_the_message_reach_the_users_exception(ask, retriever):
    retriever.failure = Overloaded("the queue is full", retry_after_s=3)
    with pytest.raises(openai.RateLimitError, match="the queue is full") as refused:
        await ask(embed, input="one", extra_headers={"X-Request-ID": "mine-1"})
    assert refused.value.request_id == "mine-1"
    assert refused.value.response.headers["retry-after"] == "3"
    assert refused.value.code == "overloaded"


async def test_the_client_comes_again_when_it_was_told_to(address, retriever):
    retriever.failure = Overloaded("full", retry_after_s=1)
    client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=2)
    answers = []

    async def embed_patiently():
        answers.append(await client.embeddings.create(model="tiny", input="one"))

    async with client, anyio.create_task_group() as group:
        group.start_soon(embed_patiently)
        await anyio.sleep(0.3)
        retriever.failure = None
    assert len(answers) == 1


async def test_models_are_listed_and_found_under_every_name(ask):
    listed = await ask(lambda client: [each.id for each in client.models.list()])
    assert listed == ["tiny", "tiny/1", "tiny:query", "tiny:passage"]
    for name in listed:
        assert (await ask(lambda client, name=name: client.models.retrieve(name))).id == name
    with pytest.raises(openai.NotFoundError):
        await ask(lambda client: client.models.retrieve("other"))


async def test_the_address_works_without_its_prefix_and_the_model_may_be_left_out(client):
    answer = await client.post("/embeddings", json={"input": "one"})
    assert answer.json()["model"] == "tiny/1"
    assert isinstance(answer.json()["data"][0]["embedding"], list)


async def test_errors_are_problem_documents_as_well(client):
    answer = await client.post("/v1/embeddings", json={"input": "one", "model": 5})
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"]) == (400, 400)
    assert problem["code"] == problem["error"]["code"] == "validation_error"
    assert problem["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ("a", "", None)),
        ("a/1", ("a", "1", None)),
        ("a:query", ("a", "", "query")),
        ("a/1:passage", ("a", "1", "passage")),
    ],
)
def test_a_model_string_is_name_version_and_role(text, expected):
    assert tuple(parse_model(text)) == expected


async def test_without_its_entry_in_the_registry_the_live_model_still_embeds(client, retriever):
    retriever.listed = False
    assert (await client.get("/v1/models")).json()["data"] == []
    assert (await client.get("/v1/models/tiny")).status_code == 404
    assert (await client.post("/v1/embeddings", json={"input": "one"})).status_code == 200


async def test_a_failure_of_the_service_is_a_server_error(client, retriever):
    retriever.failure = EngineFailure("broken")
    answer = await client.post("/v1/embeddings", json={"input": "one"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
