"""Values that schemathesis can't derive from the schema: texts of the formats that openapi.json names."""

import base64
import re
import uuid
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

KEYS = Path(__file__).parents[2] / "fixtures" / "keys"
PUBLIC_KEYS = [
    (KEYS / name).read_text()
    for name in ("public_key.pem", "public_key.pkcs1.pem", "public_key.scripts.pem", "public_key.jwk.json")
]

label = st.from_regex(r"[a-z][a-z0-9]{0,20}", fullmatch=True)
urls = st.builds("https://{}.example.com/{}".format, label, label)
secrets = st.binary(min_size=24, max_size=64).map(lambda secret: "whsec_" + base64.b64encode(secret).decode())

schemathesis.openapi.format("uri", urls)
schemathesis.openapi.format("rsa-public-key", st.sampled_from(PUBLIC_KEYS))
schemathesis.openapi.format("signing-secret", secrets)


@schemathesis.hook
def map_headers(context, headers):
    """Makes each valid idempotency key unique, because two requests with the same key are one request."""
    for name, value in (headers or {}).items():
        if name.lower() == "idempotency-key" and re.fullmatch(r"[!-~]{1,200}", str(value)):
            headers[name] = f"{value}-{uuid.uuid4()}"
    return headers


CONDITIONS = {"tenant", "endpoint", "message", "cause", "fault", "since", "until"}


@schemathesis.hook
def map_body(context, body):
    """Adds `all` where a body has no condition, which the schema can't require. Limits a purge to one, so that some are left."""
    if re.search("/dead-letters/(replay|purge)$", context.operation.path) and isinstance(body, dict):
        if not body.keys() & (CONDITIONS | {"dry_run"}) and body.get("all", False) is False:
            body = body | {"all": True}
        limit = body.get("limit", 1)
        if context.operation.path.endswith("/purge") and not isinstance(limit, bool) and limit in range(1, 1001):
            body = body | {"limit": 1}
    return body
