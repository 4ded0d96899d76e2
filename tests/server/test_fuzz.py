"""Every route is asked what its OpenAPI document allows and what it does not: nothing makes it fail."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from served import Served, options

from chroma_mlx.server.app import make_app

schema = schemathesis.openapi.from_dict(make_app(options()).openapi())


@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_makes_the_server_fail(case: Any, served: Served) -> None:
    answer = case.call(base_url=served.url)
    assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"
    if answer.status_code >= 400:
        body = answer.json()
        assert body["error"]["message"] if case.path.startswith("/v1/") else body["message"]
