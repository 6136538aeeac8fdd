async def test_the_registry_is_listed_with_the_state_of_each_version(client, retriever):
    active, invalid = (await client.get("/models")).json()["models"]
    assert active == {
        "name": "tiny",
        "version": "1",
        "state": "active",
        "reason": "",
        "space": retriever._engine.space,
        "dimension": 16,
        "dimensions": [8, 16],
        "max_tokens": 64,
        "languages": ["de", "en"],
        "precisions": ["fp32"],
        "roles": ["query", "passage"],
        "licence": "Apache-2.0",
    }
    assert invalid["state"] == "invalid"
    assert "SHA-256" in invalid["reason"]
