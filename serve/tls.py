"""TLS: certificates that gRPC takes anew for every connection, so that new ones need no restart."""

import grpc

from .certificates import Certificates, Pem
from .watched import Watched


def credentials(files: Certificates) -> grpc.ServerCredentials:
    """Credentials of a server; callers need a certificate too where `files` names authorities (mutual TLS).

    Files that change are read again at the next connection; those open live on. A new pair that breaks a rule is
    told in the log, and the old one stays.

    Raises:
        MissingFile, Malformed: the files break a rule now.
    """
    watched = Watched(files.paths, files.read)
    used = watched.get()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        found = watched.get()
        if found is used:
            return None
        used = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        renewed,  # pyright: ignore[reportArgumentType]  # None means no change, says gRPC's text and not its type
        require_client_authentication=files.ca is not None,
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.ca)
