"""What a verification found: facts, findings, what could not be proven and what did not answer (rule A4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_FINDINGS = 1_000  # what is told one by one; a trail that is broken throughout would say nothing more by more


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be: ``about`` names the row, event, file or object."""

    about: str
    text: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.about}: {self.text}"


@dataclass(slots=True)
class Report:
    """The answer of `verify`.

    ``unproven``: what nobody can check any more, or not with what was given (A4). ``unreachable``: what did not answer,
    and may when it is asked again. ``more``: findings beyond `MOST_FINDINGS`, counted only. ``head_seq`` and
    ``head_sha256``: the trail's newest event.
    """

    facts: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    more: int = 0
    head_seq: int = 0
    head_sha256: str = ""

    def find(self, about: str, text: str) -> None:
        """Add a finding."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(about, text))
        else:
            self.more += 1

    @property
    def status(self) -> int:
        """Give the status that a command ends with: 0 nothing is wrong, 1 something is, 2 it could not be seen."""
        if self.findings:
            return 1
        return 2 if self.unreachable else 0

    def sentences(self) -> list[str]:
        """Say it, a line each: facts, what is unproven, findings, and the verdict."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from self.facts
        yield from (f"NOT PROVEN: {text}" for text in self.unproven)
        yield from (f"NO ANSWER: {text}" for text in self.unreachable)
        yield from (f"FINDING: {finding}" for finding in self.findings)
        if self.more:
            yield f"FINDING: {self.more:,} more, which are not told one by one."
        if self.findings:
            yield f"{len(self.findings) + self.more:,} findings: something is not as the trail says."
        elif self.unreachable:
            yield "Nothing is wrong with what was seen; not all of it was."
        else:
            yield "Nothing is wrong."
