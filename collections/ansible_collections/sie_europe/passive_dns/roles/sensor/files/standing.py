"""Ask the hub whether it would grant a certificate for a token, without using the token up.

Reads one JSON object from standard input: `url` (of enrolment), `ca` (PEM), `user` (PARTICIPANT/SENSOR), `token` and `proxy` (http://HOST:PORT,
empty for the direct way), so that the token is in no argument and no file. Prints one sentence if the answer is no, or if there is none;
nothing if it is yes.
"""

import base64
import http.client
import json
import ssl
import sys
from urllib.parse import urlsplit

SECONDS = 15.0
MAX_SENTENCE = 500
NO_CONTENT = 204


def refusal(url, ca, user, token, proxy):
    """Why there would be no certificate; the empty string if there would be one. Redirections are not followed."""
    basic = base64.b64encode(("%s:%s" % (user, token)).encode()).decode()
    where = urlsplit(url)
    way = urlsplit(proxy or url)
    hub = http.client.HTTPSConnection(
        way.hostname, way.port, timeout=SECONDS, context=ssl.create_default_context(cadata=ca)
    )
    if proxy:
        hub.set_tunnel(where.hostname, where.port)  # TLS is with the hub itself: the proxy reads nothing
    try:
        hub.request("GET", "/.well-known/est/simpleenroll", headers={"Authorization": "Basic %s" % basic})
        answer = hub.getresponse()
        said = answer.read(MAX_SENTENCE).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return "no answer that can be believed (%s)" % error
    finally:
        hub.close()
    return "" if answer.status == NO_CONTENT else said or "HTTP status %d" % answer.status


if __name__ == "__main__":
    sys.stdout.write(refusal(**json.load(sys.stdin)))
