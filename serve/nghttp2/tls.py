"""TLS: the same certificates for Python's ssl, taken anew for every connection, so that new ones need no restart."""

import ssl
from typing import Any

from ..certificates import Certificates
from ..watched import Watched


def context(files: Certificates) -> ssl.SSLContext:
    """What a server's connections begin with; callers need a certificate too where `files` names authorities.

    Files that change are read again at the next connection; those open live on. A new pair that breaks a rule is
    told in the log, and the old one stays.

    Raises:
        MissingFile, Malformed: the files break a rule now.
    """
    watched = Watched(files.paths, lambda: _context(files))
    first = watched.get()

    def renew(connection: Any, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = watched.get()

    first.sni_callback = renew  # asked at the beginning of every handshake, whether a name was given or not
    return first


def _context(files: Certificates) -> ssl.SSLContext:
    pem = files.read()
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.set_alpn_protocols(["h2"])
    found.load_cert_chain(files.cert, files.key)
    if pem.ca is not None:
        found.load_verify_locations(cadata=pem.ca.decode("ascii"))
        found.verify_mode = ssl.CERT_REQUIRED
    return found
