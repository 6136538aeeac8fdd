import re

import pytest


async def test_the_page_of_the_api_comes_whole_from_here(client):
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert ":" not in address
        asset = await client.get(f"/{address}")
        assert asset.status_code == 200
        assert len(asset.content) > 500
    assert "http" not in re.sub(r"</?[a-z][^>]*>", "", page.text)


async def test_the_root_leads_to_it(client):
    answer = await client.get("/")
    assert answer.status_code == 307
    assert answer.headers["location"] == "docs"


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpyproject.toml", "swagger-ui.css.map"])
async def test_nothing_else_of_the_package_is_served(client, name):
    assert (await client.get(f"/docs/{name}")).status_code == 404


async def test_every_problem_is_explained(client):
    listed = (await client.get("/problems")).json()
    assert listed["overloaded"]["status"] == 429
    assert (await client.get("/problems/nothing")).status_code == 404
