"""What is to be said of a deployment file: mistakes, what has no effect, what stands against bringing it up."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.config.problem import Place, Problem, Report


@dataclass(frozen=True, slots=True)
class Notes:
    """Three reports of one file."""

    errors: Report
    warnings: Report
    obstacles: Report

    @classmethod
    def of(cls, report: Report) -> Notes:
        """Mistakes go into *report*."""
        return cls(report, Report(report.file), Report(report.file))

    def wrong(self, place: Place, path: str, message: str, *, hint: str = "") -> None:
        """A mistake: nothing can be made of the file."""
        self.errors.add(place, path, message, hint=hint)

    def warn(self, place: Place, path: str, message: str, *, hint: str = "") -> None:
        """It has no effect, or another one than it had."""
        self.warnings.add(place, path, message, hint=hint)

    def hinder(self, place: Place, path: str, message: str, *, hint: str = "") -> None:
        """It can be compiled, and not be brought up."""
        self.obstacles.add(place, path, message, hint=hint)


def in_order(report: Report) -> tuple[Problem, ...]:
    """The problems of *report*, each once, in the file's order."""
    unique = dict.fromkeys(report.problems)
    return tuple(sorted(unique, key=lambda problem: (problem.line, problem.column)))
