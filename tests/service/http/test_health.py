import pytest
from prometheus_client.parser import text_string_to_metric_families


@pytest.mark.parametrize("path", ["/livez", "/startupz", "/readyz", "/health"])
async def test_a_service_that_serves_is_well(client, path):
    assert (await client.get(path)).status_code == 200


async def test_health_has_no_body(client):
    assert (await client.get("/health")).content == b""


async def test_before_the_retriever_is_open_only_the_process_is_alive(client, app):
    del app.state.retriever
    assert (await client.get("/livez")).status_code == 200
    for path in ("/startupz", "/readyz", "/health"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "retry-after" in answer.headers
    assert (await client.post("/embed", json={"inputs": "a"})).status_code == 503


async def test_while_it_drains_it_is_alive_and_serves_but_is_not_ready(client, app):
    app.state.draining = True
    assert (await client.get("/livez")).status_code == 200
    assert (await client.get("/startupz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/health")).status_code == 503
    assert (await client.post("/embed", json={"inputs": "a"})).status_code == 200


async def test_without_its_index_it_is_ready_to_embed_and_not_to_search(client, retriever):
    retriever.index_answers = False
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/readyz?component=search")).status_code == 503
    assert (await client.get("/readyz?component=embed")).status_code == 200
    assert (await client.get("/health")).status_code == 200
    assert "no answer in 2 s" in (await client.get("/readyz")).json()["detail"]


@pytest.mark.parametrize(("answers", "code"), [(True, 200), (False, 503)])
async def test_verbose_says_each_check_and_how_far_the_index_is(client, retriever, answers, code):
    retriever.index_answers = answers
    answer = await client.get("/readyz?verbose")
    assert answer.status_code == code
    assert [each["name"] for each in answer.json()["checks"]] == ["encoder", "catalog", "index"]
    assert answer.json()["index"] == {"applied": 3, "total": 4}


async def test_info_has_teis_keys_and_ours(client):
    info = (await client.get("/info")).json()
    assert info["model_id"] == "tiny/1"
    assert info["max_input_length"] == 64
    assert info["max_client_batch_size"] == 2048
    assert info["dimension"] == 16
    assert info["limits"]["max_queries"] == 4
    assert info["settings"]["precision"] == "fp32"


async def test_metrics_count_requests_by_route_template(client):
    await client.get("/documents/one")
    await client.get("/documents/two")
    await client.get("/nowhere/at/all")
    text = (await client.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counts = {
        (sample.labels["route"], sample.labels["code"]): sample.value
        for sample in families["isogloss_http_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counts["/documents/{id:path}", "404"] == 2
    assert counts["unmatched", "404"] == 1
    assert "/documents/one" not in text


async def test_without_its_encoder_it_can_do_nothing(client, retriever):
    retriever.encoder_works = False
    assert (await client.get("/health")).status_code == 503
    assert (await client.get("/readyz?component=embed")).status_code == 503
    assert (await client.get("/livez")).status_code == 200
