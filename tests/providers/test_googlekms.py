"""Google Cloud KMS through its own client, over gRPC, against a stand-in on this machine that answers as its API says.

The stand-in holds real P-256 keys and speaks the library's own messages; what no test here can tell is whether the real
service and its permissions behave so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field

import google_crc32c
import grpc
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.cloud import kms
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport

from keyserver.errors import ConfigurationError, ConflictError, FormatError, KeyserverError, RemoteError
from keyserver.protocol import signature
from keyserver.providers import googlekms
from keyserver.providers.googlekms import GoogleKmsSigner
from keyserver.providers.signers import Signer, open_signer

RING = "projects/health-north/locations/europe-north1/keyRings/export-signing"
URL = f"gcpkms://{RING}"
DIGEST = hashlib.sha256(b"EK Export v1    ").digest()
P256 = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P256_SHA256
P384 = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P384_SHA384


@dataclass
class StandIn:
    """The service: crypto keys by their resource name, and how it is disturbed."""

    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    algorithm: int = P256
    pending: int = 0  # times that a new key is not there yet
    failures: list[grpc.StatusCode] = field(default_factory=list)  # of the next calls
    spoil: Callable[[object], None] = lambda _: None
    asked: list[object] = field(default_factory=list)

    def add(self, name: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(curve or ec.SECP256R1())
        return self.keys.setdefault(f"{RING}/cryptoKeys/{name}/cryptoKeyVersions/1", key)

    def sign(self, request: kms.AsymmetricSignRequest, context: grpc.ServicerContext) -> kms.AsymmetricSignResponse:
        digest = request.digest.sha256
        made = self.key(request.name, context).sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        return kms.AsymmetricSignResponse(
            name=request.name,
            signature=made,
            signature_crc32c=google_crc32c.value(made),
            verified_digest_crc32c=request.digest_crc32c == google_crc32c.value(digest),
        )

    def public_key(self, request: kms.GetPublicKeyRequest, context: grpc.ServicerContext) -> kms.PublicKey:
        public = self.key(request.name, context).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = public.public_bytes(serialization.Encoding.PEM, form).decode()
        crc = google_crc32c.value(pem.encode())
        return kms.PublicKey(name=request.name, pem=pem, algorithm=self.algorithm, pem_crc32c=crc)

    def create(self, request: kms.CreateCryptoKeyRequest, context: grpc.ServicerContext) -> kms.CryptoKey:
        if f"{RING}/cryptoKeys/{request.crypto_key_id}/cryptoKeyVersions/1" in self.keys:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "there is one")
        self.add(request.crypto_key_id)
        return request.crypto_key

    def version(self, request: kms.GetCryptoKeyVersionRequest, context: grpc.ServicerContext) -> kms.CryptoKeyVersion:
        self.key(request.name, context)
        states = kms.CryptoKeyVersion.CryptoKeyVersionState
        self.pending -= 1
        state = states.PENDING_GENERATION if self.pending >= 0 else states.ENABLED
        return kms.CryptoKeyVersion(name=request.name, state=state, algorithm=self.algorithm)

    def key(self, name: str, context: grpc.ServicerContext) -> ec.EllipticCurvePrivateKey:
        if name not in self.keys:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} of secret-account@example not found")
        return self.keys[name]

    def handler(self, work: Callable, request: type, answer: type) -> grpc.RpcMethodHandler:
        def handle(message: object, context: grpc.ServicerContext) -> object:
            self.asked.append(message)
            if self.failures:
                context.abort(self.failures.pop(0), "secret-account@example at 192.0.2.1 says no")
            made = work(message, context)
            self.spoil(made)
            return made

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=request.deserialize, response_serializer=answer.serialize
        )

    @property
    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        return {
            "AsymmetricSign": self.handler(self.sign, kms.AsymmetricSignRequest, kms.AsymmetricSignResponse),
            "GetPublicKey": self.handler(self.public_key, kms.GetPublicKeyRequest, kms.PublicKey),
            "CreateCryptoKey": self.handler(self.create, kms.CreateCryptoKeyRequest, kms.CryptoKey),
            "GetCryptoKeyVersion": self.handler(self.version, kms.GetCryptoKeyVersionRequest, kms.CryptoKeyVersion),
        }


@pytest.fixture
def service() -> StandIn:
    return StandIn()


@pytest.fixture
def client(service: StandIn) -> Iterator[kms.KeyManagementServiceClient]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    name = "google.cloud.kms.v1.KeyManagementService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, service.handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    yield kms.KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))
    channel.close()
    server.stop(None).wait()


@pytest.fixture
def signer(client: kms.KeyManagementServiceClient) -> Signer:
    return GoogleKmsSigner(URL, client)


def test_what_it_signs_verifies_with_its_public_key(service, signer):
    key = service.add("north-1")
    assert signer.public_key("north-1") == signature.public_key_pem(key.public_key())
    made = signer.sign("north-1", DIGEST)
    assert signature.verify(key.public_key(), made, DIGEST) is None
    # No more than the digest leaves the process.
    (request,) = (message for message in service.asked if isinstance(message, kms.AsymmetricSignRequest))
    assert (request.name.removeprefix(RING), request.digest.sha256, request.data) == (
        "/cryptoKeys/north-1/cryptoKeyVersions/1",
        DIGEST,
        b"",
    )


def test_a_key_is_made_in_hardware_once(service, signer, monkeypatch):
    monkeypatch.setattr(googlekms, "_PAUSE", 0)
    service.pending = 3
    pem = signer.generate("north-1")
    assert pem == signer.public_key("north-1")
    (request,) = (message for message in service.asked if isinstance(message, kms.CreateCryptoKeyRequest))
    assert request.crypto_key.purpose == kms.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN
    assert request.crypto_key.version_template.algorithm == P256
    assert request.crypto_key.version_template.protection_level == kms.ProtectionLevel.HSM
    with pytest.raises(ConflictError, match="choose a new name"):
        signer.generate("north-1")
    assert signer.public_key("north-1") == pem


def test_a_key_that_takes_long_is_asked_for_later(service, signer, monkeypatch):
    monkeypatch.setattr(googlekms, "_PAUSE", 0)
    service.pending = 1000
    with pytest.raises(RemoteError, match="still being made"):
        signer.generate("north-1")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: setattr(answer, "verified_digest_crc32c", False),
        lambda answer: setattr(answer, "signature", answer.signature[:-1] + b"\0"),
        lambda answer: setattr(answer, "name", f"{RING}/cryptoKeys/other/cryptoKeyVersions/1"),
    ],
    ids=["digest", "signature", "key"],
)
def test_a_damaged_answer_is_asked_for_again_by_the_task(service, signer, spoil):
    service.add("north-1")
    service.spoil = spoil
    with pytest.raises(RemoteError, match="damaged"):
        signer.sign("north-1", DIGEST)


def test_a_damaged_public_key_is_not_taken(service, signer):
    service.add("north-1")
    service.spoil = lambda answer: setattr(answer, "pem", answer.pem.replace("BEGIN", "BEGUN"))
    with pytest.raises(RemoteError, match="damaged"):
        signer.public_key("north-1")


def test_a_key_of_another_kind_is_refused(service, signer):
    service.add("north-1", ec.SECP384R1())
    service.algorithm = P384
    with pytest.raises(ConfigurationError, match="EC_SIGN_P256_SHA256"):
        signer.public_key("north-1")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INTERNAL, RemoteError),
        (grpc.StatusCode.ABORTED, RemoteError),
        (grpc.StatusCode.UNKNOWN, RemoteError),
        (grpc.StatusCode.PERMISSION_DENIED, ConfigurationError),
        (grpc.StatusCode.UNAUTHENTICATED, ConfigurationError),
        (grpc.StatusCode.FAILED_PRECONDITION, ConfigurationError),  # a key that is disabled or destroyed
        (grpc.StatusCode.INVALID_ARGUMENT, ConfigurationError),
        (grpc.StatusCode.NOT_FOUND, ConfigurationError),
    ],
)
def test_each_refusal_is_one_of_our_errors_and_tells_nothing_of_accounts(service, signer, code, error):
    service.add("north-1")
    for operation in (lambda: signer.sign("north-1", DIGEST), lambda: signer.public_key("north-1")):
        service.failures = [code]
        with pytest.raises(KeyserverError) as refused:
            operation()
        assert type(refused.value) is error
        assert "north-1" in str(refused.value)
        assert "example" not in str(refused.value)
        assert "192.0.2.1" not in str(refused.value)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_short_trouble_is_not_noticed(service, signer, code):
    key = service.add("north-1")
    service.failures = [code, code]
    assert signature.verify(key.public_key(), signer.sign("north-1", DIGEST), DIGEST) is None


def test_a_service_out_of_reach_is_worth_another_try(monkeypatch):
    monkeypatch.setattr(googlekms, "_TIMEOUT", 0.2)
    channel = grpc.insecure_channel("127.0.0.1:1")
    client = kms.KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))
    with pytest.raises(RemoteError):
        GoogleKmsSigner(URL, client).sign("north-1", DIGEST)
    channel.close()


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (DefaultCredentialsError("none in secret.json"), ConfigurationError),
        (RefreshError("secret-account", retryable=True), RemoteError),
        (RefreshError("secret-account", retryable=False), ConfigurationError),
    ],
)
def test_a_process_without_credentials(monkeypatch, error, ours):
    def refuse() -> None:
        raise error

    monkeypatch.setattr(kms, "KeyManagementServiceClient", refuse)
    with pytest.raises(KeyserverError) as refused:
        open_signer(URL)
    assert type(refused.value) is ours
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "North", "-n", "a/b", "../north", "n" * 64, "north-1\n"])
def test_what_is_no_name_is_not_asked_for(service, signer, name):
    for operation in (
        lambda: signer.sign(name, DIGEST),
        lambda: signer.public_key(name),
        lambda: signer.generate(name),
    ):
        with pytest.raises(ConfigurationError):
            operation()
    assert service.asked == []


@pytest.mark.parametrize("digest", [b"", DIGEST[:-1], DIGEST + b"\0"])
def test_only_a_sha256_is_signed(service, signer, digest):
    with pytest.raises(FormatError):
        signer.sign("north-1", digest)
    assert service.asked == []
