import base64

import msgpack
import numpy as np
import pytest


async def test_one_text_gives_a_list_of_one_vector(client):
    answer = await client.post("/embed", json={"inputs": "ein Text"})
    assert answer.status_code == 200
    (vector,) = answer.json()
    assert len(vector) == 16
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


async def test_vectors_come_in_the_order_of_the_texts(client):
    texts = ["one", "two", "three " * 9]
    together = (await client.post("/embed", json={"inputs": texts})).json()
    for text, vector in zip(texts, together, strict=True):
        (alone,) = (await client.post("/embed", json={"inputs": text})).json()
        assert np.dot(alone, vector) > 1 - 1e-5


async def test_headers_say_what_the_vectors_are(client, retriever):
    answer = await client.post("/embed", json={"inputs": ["a", "b" * 100], "role": "query"})
    assert answer.headers["x-isogloss-model"] == "tiny/1"
    assert answer.headers["x-isogloss-space"] == retriever._engine.space
    assert answer.headers["x-isogloss-role"] == "query"
    assert answer.headers["x-isogloss-tokens"] == str(3 + 64)
    assert answer.headers["x-isogloss-truncated"] == "1"


@pytest.mark.parametrize(
    ("said", "role"),
    [
        ({}, "passage"),
        ({"role": "query"}, "query"),
        ({"input_type": "search_query"}, "query"),
        ({"input_type": "search_document"}, "passage"),
        ({"prompt_name": "query"}, "query"),
        ({"role": "passage", "input_type": "query"}, "passage"),
        ({"input_type": "query", "prompt_name": "passage"}, "query"),
    ],
)
async def test_the_role_can_be_said_in_the_ways_of_other_servers(client, said, role):
    answer = await client.post("/embed", json={"inputs": "a", **said})
    assert answer.headers["x-isogloss-role"] == role


async def test_an_unknown_role_is_refused_with_the_known_ones(client):
    answer = await client.post("/embed", json={"inputs": "a", "input_type": "clustering"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/input_type"
    assert "search_document" in answer.json()["detail"]


async def test_the_encodings_carry_the_same_bits(client):
    body = {"inputs": ["a", "b"]}
    floats = np.array((await client.post("/embed", json=body)).json(), dtype="<f4")
    coded = (await client.post("/embed", json={**body, "encoding_format": "base64"})).json()
    packed = await client.post("/embed", json={**body, "encoding_format": "msgpack"})
    accepted = await client.post("/embed", json=body, headers={"Accept": "application/msgpack"})
    assert packed.headers["content-type"] == "application/msgpack"
    assert packed.content == accepted.content
    assert [base64.b64decode(each) for each in coded] == [row.tobytes() for row in floats]
    assert msgpack.unpackb(packed.content) == [row.tobytes() for row in floats]


async def test_more_rows_than_are_written_at_once_come_in_order(client):
    answer = await client.post("/embed", json={"inputs": [str(n) for n in range(600)]})
    (alone,) = (await client.post("/embed", json={"inputs": "599"})).json()
    assert len(answer.json()) == 600
    assert np.dot(alone, answer.json()[-1]) > 1 - 1e-5


async def test_an_allowed_length_gives_unit_vectors_of_it(client):
    answer = await client.post("/embed", json={"inputs": "a", "dimensions": 8})
    assert np.linalg.norm(answer.json()[0]) == pytest.approx(1, abs=1e-5)
    assert len(answer.json()[0]) == 8


async def test_another_length_is_refused_and_points_at_it(client):
    answer = await client.post("/embed", json={"inputs": "a", "dimensions": 7})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/dimensions"


@pytest.mark.parametrize(
    ("inputs", "pointer"), [("b" * 100, "/inputs"), (["a", "b" * 100], "/inputs/1")]
)
async def test_without_truncation_a_long_text_is_refused(client, inputs, pointer):
    answer = await client.post("/embed", json={"inputs": inputs, "truncate": False})
    assert answer.status_code == 413
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("", (400, "empty_input", "/inputs")),
        ([], (400, "empty_input", "/inputs")),
        (["a", ""], (400, "empty_input", "/inputs/1")),
        (5, (422, "invalid_input", "/inputs")),
        (None, (422, "invalid_input", "/inputs")),
        ({"source_sentence": "a"}, (422, "invalid_input", "/inputs")),
        (["a", None], (422, "invalid_input", "/inputs/1")),
        ([True], (422, "invalid_input", "/inputs/0")),
        ([[1, 2]], (400, "token_input_unsupported", "/inputs")),
        ([1, 2], (400, "token_input_unsupported", "/inputs")),
        ("a\0b", (422, "invalid_input", "/inputs")),
        ("x" * 5001, (413, "too_large", "/inputs")),
        (["x"] * 2049, (413, "too_large", "/inputs")),
    ],
)
async def test_bad_inputs_are_refused_where_they_are(client, inputs, expected):
    answer = await client.post("/embed", json={"inputs": inputs})
    problem = answer.json()
    said = (answer.status_code, problem["code"], problem["errors"][0]["pointer"])
    assert said == expected
    assert (await client.post("/embed", json={"inputs": "the next is fine"})).status_code == 200


async def test_a_passed_limit_names_the_value_the_limit_and_the_knob(client):
    answer = await client.post("/embed", json={"inputs": ["x"] * 10_000})
    assert "10000" in answer.json()["detail"]
    assert "2048" in answer.json()["detail"]
    assert "ISOGLOSS_MAX_ITEMS" in answer.json()["detail"]


async def test_half_a_surrogate_pair_is_refused_where_it_is(client):
    body = b'{"inputs": ["fine", "\\ud83d"]}'
    answer = await client.post("/embed", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/inputs/1"


async def test_a_whole_surrogate_pair_is_text(client):
    body = b'{"inputs": "\\ud83d\\udc1d"}'
    answer = await client.post("/embed", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


async def test_a_blank_text_is_a_text(client):
    assert (await client.post("/embed", json={"inputs": " "})).status_code == 200


async def test_an_unknown_key_is_refused_by_name(client):
    answer = await client.post("/embed", json={"inputs": "a", "space_id": "x"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/space_id"


async def test_errors_have_the_keys_that_teis_clients_read(client):
    empty = (await client.post("/embed", json={"inputs": ""})).json()
    wrong = (await client.post("/embed", json={"inputs": 1})).json()
    assert (empty["error_type"], wrong["error_type"]) == ("Empty", "Validation")
    assert wrong["error"] == wrong["detail"]
