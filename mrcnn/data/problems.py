"""Problems of a data set: collected as records, formatted as sentences when they are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mrcnn.errors import FileError, UserError
from mrcnn.io.json_files import shown

SHOWN = 20  # problems in the message; `DatasetError.problems` holds all
LISTED = 5  # names in a message


def listed(items: Sequence[object]) -> str:
    """Join the first items with commas, and an ellipsis if there are more."""
    return ", ".join(map(str, items[:LISTED])) + (", …" if len(items) > LISTED else "")


@dataclass(frozen=True)
class Problem:
    """A value that breaks a rule of the data.

    Attributes:
        label: The record or the part of a file, as named in messages.
        rule: The rest of the sentence "LABEL must …". Empty if `value` is a statement itself.
        value: The value found.
        fix: What the user can do.
        table: "images", "annotations" or "categories" for a COCO record, else "".
        index: Index of the record in its table, else -1.
        field: Field of the record, else "". "size" is its width and height.
        part: Position inside the field, such as "[0]" or ".counts".
    """

    label: str
    rule: str
    value: object
    fix: str
    table: str = ""
    index: int = -1
    field: str = ""
    part: str = ""

    def __str__(self) -> str:
        location = f"{self.label}: {self.field}{self.part}" if self.field else self.label
        if self.rule:
            return f"{location} must {self.rule}, got {shown(self.value)}; {self.fix}"
        return ": ".join(filter(None, [location, f"{self.value}; {self.fix}"]))


class RuleError(Exception):
    """A value that breaks a rule of the data, for `Problems.collect`; see `Problem`."""

    def __init__(self, label: str, rule: str, value: object, fix: str) -> None:
        super().__init__(label, rule, value, fix)
        self.problem = Problem(label, rule, value, fix)


class DatasetError(UserError):
    """Data that breaks the rules of its format.

    Attributes:
        file: The annotation file or the folder of the data.
        problems: All problems found.
    """

    def __init__(self, file: Path, problems: list[Problem]) -> None:
        self.file, self.problems = file, problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        super().__init__("\n  ".join([f"{file}: {count}", *map(str, problems[:SHOWN]), *more]))


class Problems:
    """Collect the problems of one annotation file or folder.

    Example:
        >>> problems = Problems(Path("train.json"))
        >>> problems.add("a.json: shapes", "be a list", None, "save the file again")
        >>> str(problems.items[0])
        'a.json: shapes must be a list, got None; save the file again'
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.items: list[Problem] = []

    def add(self, label: str, rule: str, value: object, fix: str) -> None:
        """Add a value that breaks `rule`. See `Problem` for the arguments."""
        self.items.append(Problem(label, rule, value, fix))

    def add_error(self, error: FileError, label: str = "") -> None:
        """Add a file that cannot be used; `label` names the record that refers to it."""
        self.items.append(Problem(label, "", f"{error.path}: {error.problem}", error.fix))

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Add the `RuleError` or `FileError` that ends the block, instead of raising it."""
        try:
            yield
        except RuleError as error:
            self.items.append(error.problem)
        except FileError as error:
            self.add_error(error)

    def of_record(self, table: str, index: int, label: str) -> Callable[..., None]:
        """Return a function `add(field, rule, value, fix, part="")` for one COCO record."""

        def add(field: str, rule: str, value: object, fix: str, part: str = "") -> None:
            self.items.append(Problem(label, rule, value, fix, table, index, field, part))

        return add

    def raise_any(self) -> None:
        """Raise a `DatasetError` if there are problems."""
        if self.items:
            raise DatasetError(self.file, self.items)
