"""Problems of a data set: collected as records, formatted as sentences when they are printed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mrcnn.errors import FileError, UserError
from mrcnn.io.json_files import shown

SHOWN = 20  # problems in the message; `DatasetError.problems` holds all
ALIKE = 3  # of them that break the same rule
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
        more: Number of other problems of the same field of the record.
    """

    label: str
    rule: str
    value: object
    fix: str
    table: str = ""
    index: int = -1
    field: str = ""
    part: str = ""
    more: int = 0

    def __str__(self) -> str:
        location = f"{self.label}: {self.field}{self.part}" if self.field else self.label
        if self.rule:
            more = f" (and {self.more:,} more in it)" if self.more else ""
            return f"{location} must {self.rule}, got {shown(self.value)}{more}; {self.fix}"
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
        groups: dict[tuple[str, ...], list[Problem]] = {}
        for problem in problems:
            key = (problem.table, problem.field, problem.rule or problem.fix)
            groups.setdefault(key, []).append(problem)
        lines: list[str] = []
        left = len(problems)
        for group in groups.values():
            if len(lines) < SHOWN:
                lines += map(str, group[:ALIKE])
                left -= len(group)
                if len(group) > ALIKE:
                    lines.append(f"and {len(group) - ALIKE:,} more like it")
        if left:
            lines.append(f"and {left:,} more")
        if any(problem.table for problem in problems):
            lines.append("`mrcnn check-data DIR --fix COPY` repairs or removes these in a copy")
        super().__init__("\n  ".join([f"{file}: {count}", *lines]))


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
        self._of_field: dict[tuple[str, int, str], int] = {}  # positions in `items`

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
        """Return a function `add(field, rule, value, fix, part="")` for one COCO record.

        Of the problems of a field, the first is kept, and the others are counted.
        """

        def add(field: str, rule: str, value: object, fix: str, part: str = "") -> None:
            at = self._of_field.setdefault((table, index, field), len(self.items))
            if at < len(self.items):
                self.items[at] = replace(self.items[at], more=self.items[at].more + 1)
            else:
                self.items.append(Problem(label, rule, value, fix, table, index, field, part))

        return add

    def drop(self, table: str, indices: Collection[int]) -> None:
        """Drop the problems of the COCO records at these indices of a table."""
        self.items = [p for p in self.items if p.table != table or p.index not in indices]

    def raise_any(self) -> None:
        """Raise a `DatasetError` if there are problems."""
        if self.items:
            raise DatasetError(self.file, self.items)
