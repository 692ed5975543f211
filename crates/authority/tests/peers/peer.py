"""A workload that nobody here wrote the libraries of: PyPI's spiffe and spiffe-tls.

    peer.py ENDPOINT ONLY-PEER

Takes its identity from the Workload API at ENDPOINT, listens for mutual TLS, and does as it is
told on its standard input, a JSON object a line; whatever happens is said on the standard output
in the same form. ONLY-PEER is the one SPIFFE ID that it speaks with. It ends with its input.

    {"dial": "127.0.0.1:PORT"}              -> {"event": "answer"} or {"event": "refused"}
    {"fetch_jwt": AUDIENCE}                 -> {"event": "jwt"}
    {"validate_jwt": TOKEN, "audience": A}  -> {"event": "valid"} or {"event": "refused"}
"""

import json
import sys
import threading
import warnings

warnings.simplefilter("ignore")  # the libraries' own deprecations

from OpenSSL import SSL
from cryptography.hazmat.primitives import hashes
from spiffe import JwtSvid, SpiffeId, WorkloadApiClient, X509Source
from spiffetls import ClientTlsMode, ListenOptions, ServerTlsMode, dial, listen
from spiffetls.tlsconfig.authorize import authorize_id

PATIENCE = 60
speaking = threading.Lock()


def say(event, **what):
    with speaking:
        print(json.dumps({"event": event, **what}), flush=True)


def identity(source):
    """What the source holds: who we are, until when, and whose root vouches for us."""
    context = source.get_x509_context()
    svid, leaf = context.default_svid, context.default_svid.leaf
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    vouching = []
    for root in bundle.x509_authorities:
        try:
            leaf.verify_directly_issued_by(root)
            vouching.append(root.fingerprint(hashes.SHA256()).hex())
        except Exception:  # another root's signature
            pass
    say("identity", id=str(svid.spiffe_id), serial=f"{leaf.serial_number:x}",
        roots=len(bundle.x509_authorities), vouching=vouching)


def serve(listener):
    """Answers every request with a greeting; a refused peer costs its own connection only."""
    while True:
        connection, _ = listener.accept()
        try:
            connection.do_handshake()
            connection.recv(4096)
            body = b"hello from python"
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)
            connection.shutdown()
        except SSL.Error as error:
            say("handshake failed", why=str(error))
        finally:
            connection.close()


def call(address, source, only):
    connection = dial(address, source, ClientTlsMode.TLS, authorize_id(only))
    connection.sendall(b"GET / HTTP/1.1\r\nhost: peer\r\nconnection: close\r\n\r\n")
    answer = b""
    try:
        while chunk := connection.recv(4096):
            answer += chunk
    except SSL.ZeroReturnError:
        pass
    finally:
        connection.close()
    return answer.decode()


def obey(command, source, client, only):
    if "dial" in command:
        say("answer", text=call(command["dial"], source, only))
    elif "fetch_jwt" in command:
        svid = client.fetch_jwt_svid({command["fetch_jwt"]}, timeout=PATIENCE)
        say("jwt", token=svid.token, id=str(svid.spiffe_id))
    elif "validate_jwt" in command:
        token, audience = command["validate_jwt"], command["audience"]
        # Once here, by the bundle, and once by whoever serves the Workload API.
        bundles = client.fetch_jwt_bundles(timeout=PATIENCE)
        domain = SpiffeId(identity_of(source)).trust_domain
        bundle = bundles.get_bundle_for_trust_domain(domain)
        here = JwtSvid.parse_and_validate(token, bundle, {audience})
        there = client.validate_jwt_svid(token, audience, timeout=PATIENCE)
        say("valid", here=str(here.spiffe_id), there=str(there.spiffe_id))


def identity_of(source):
    return str(source.get_x509_context().default_svid.spiffe_id)


def main(endpoint, only):
    only = SpiffeId(only)
    client = WorkloadApiClient(endpoint)
    try:
        client.fetch_x509_svid(timeout=PATIENCE)
    except Exception as error:
        say("failed", why=str(error))
        return
    source = X509Source(socket_path=endpoint, timeout_in_seconds=PATIENCE)
    options = ListenOptions(ServerTlsMode.MTLS, authorize_id(only))
    listener = listen("127.0.0.1:0", source, options)
    # Subscribed after the listener, so that it has the new certificate when we say so.
    source.subscribe_for_updates(lambda: identity(source))
    say("listening", port=listener.getsockname()[1])
    identity(source)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    for line in sys.stdin:
        try:
            obey(json.loads(line), source, client, only)
        except Exception as error:
            say("refused", why=f"{type(error).__name__}: {error}")


main(*sys.argv[1:])
