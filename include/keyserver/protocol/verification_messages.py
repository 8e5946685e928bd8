"""What is asked of the verification service (publish.md 4.6, 4.7). Names on the wire are the aliases."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from keyserver.protocol.messages import Int32, Message, register

_Texts = Annotated[tuple[str, ...], Field(strict=False)]  # JSON's arrays are read as lists


class VerifyRequest(Message):
    """A code for a token."""

    code: str = Field(default="", repr=False)
    accept: _Texts = ()
    nonce: str = Field(default="", repr=False)
    padding: str = Field(default="", repr=False)


class CertificateRequest(Message):
    """A token and the HMAC of keys for a certificate."""

    token: str = Field(default="", repr=False)
    ekeyhmac: str = Field(default="", repr=False)
    padding: str = Field(default="", repr=False)


class UserReportRequest(Message):
    """A report of a person's own."""

    symptom_date: str = Field(default="", alias="symptomDate")
    test_date: str = Field(default="", alias="testDate")
    tz_offset: Int32 = Field(default=0, alias="tzOffset")
    phone: str = Field(default="", repr=False)
    nonce: str = Field(default="", repr=False)
    padding: str = Field(default="", repr=False)


class IssueRequest(Message):
    """A code that a health worker asks for. Who the worker is (``externalIssuerID``) is read and not kept."""

    symptom_date: str = Field(default="", alias="symptomDate")
    test_date: str = Field(default="", alias="testDate")
    test_type: str = Field(default="", alias="testType")
    tz_offset: Int32 = Field(default=0, alias="tzOffset")
    phone: str = Field(default="", repr=False)
    sms_template_label: str = Field(default="", alias="smsTemplateLabel")
    uuid: str = ""
    external_issuer_id: str = Field(default="", alias="externalIssuerID", repr=False)
    only_generate_sms: bool = Field(default=False, alias="onlyGenerateSMS")
    padding: str = Field(default="", repr=False)


class BatchIssueRequest(Message):
    """Several codes at once."""

    codes: Annotated[tuple[IssueRequest, ...], Field(strict=False)] = ()
    padding: str = Field(default="", repr=False)


class CodeRequest(Message):
    """A code by its UUID."""

    uuid: str = ""
    padding: str = Field(default="", repr=False)


register(VerifyRequest, CertificateRequest, UserReportRequest, IssueRequest, BatchIssueRequest, CodeRequest)
