"""What a check of a data set has found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

SHOWN = 5


class Severity(IntEnum):
    """An error makes training or its numbers wrong, a warning may, and a note is only good to know."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        severity: see `Severity`.
        message: what it is, how often, and what to do.
        examples: a few of them, with the picture's name.
        places: split and row of the pictures.
    """

    severity: Severity
    message: str
    examples: Sequence[str] = ()
    places: Sequence[tuple[str, int]] = ()

    def __str__(self) -> str:
        more = ", …" if len(self.examples) > SHOWN else ""
        listing = f" ({'; '.join(self.examples[:SHOWN])}{more})" if self.examples else ""
        return f"{self.severity.name.lower()}: {self.message}{listing}"


@dataclass
class Findings:
    """Findings, the worst first."""

    all: list[Finding] = field(default_factory=list)

    def add(
        self,
        severity: Severity,
        message: str,
        examples: Iterable[str] = (),
        places: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Adds one, which stays behind others as severe."""
        self.all.append(Finding(severity, message, list(examples), list(places)))
        self.all.sort(key=lambda finding: -finding.severity)

    def of(self, severity: Severity) -> list[Finding]:
        """Those of one severity."""
        return [finding for finding in self.all if finding.severity == severity]

    def raise_errors(self, source: str) -> None:
        """Raises a ValueError that lists all errors, if there are any."""
        errors = self.of(Severity.ERROR)
        if errors:
            listing = "\n".join(f"  {error}" for error in errors)
            raise ValueError(
                f"{source} cannot be trained on as it is:\n{listing}\nscripts/check_dataset.py shows all of it with "
                "pictures."
            )

    def __str__(self) -> str:
        return "\n".join(map(str, self.all)) or "Nothing was found."
