"""A page: what a report consists of, and how it becomes one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

from zoo_canvas import DPI, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CSS_PIXELS = 96
"""In an inch."""


class Part(Protocol):
    """Something in a section. The template has a macro for each kind."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        title: what it is called.
        alt: what it shows, for those who do not see it.
        image: as PNG.
        caption: below it.
        chart: whether it is lines and points, which may be drawn light on dark, and not images.
        headed: whether the title stands above it; not where the figure itself says it.
    """

    title: str
    alt: str
    image: bytes
    caption: str = ""
    chart: bool = False
    headed: bool = True

    @classmethod
    def of(cls, figure: Figure, title: str, alt: str, caption: str = "", **how: bool) -> Picture:
        """That of a figure."""
        return cls(title, alt, png(figure), caption, **how)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height, in the pixels of CSS, at which text is as large as it was drawn."""
        width, height = struct.unpack(">II", self.image[16:24])
        return round(width * CSS_PIXELS / DPI), round(height * CSS_PIXELS / DPI)

    @property
    def uri(self) -> str:
        """The image itself, as an address."""
        return "data:image/png;base64," + base64.b64encode(self.image).decode()


@dataclass(frozen=True)
class Gallery:
    """Pictures, side by side where there is room."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: above it.
        header, rows: the cells; the first of each row names it.
        numbers: columns that stand to the right.
        marked: a row that stands out.
        notes: below it.
        folded: only its caption is seen until it is opened.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: range = range(0)
    marked: int | None = None
    notes: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Text as it stands in a file or on a command line, under a title."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a page, with a heading. One without parts is left out."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """What links to it say."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Headline:
    """A number that is seen first.

    Attributes:
        name: what it is.
        value: the number.
        unit: beside it.
        note: below it: how it was come by.
    """

    name: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All of it.

    Attributes:
        title: the heading.
        summary: a line below it.
        badges: a few words each.
        headlines: the numbers that are seen first.
        sections: the rest.
        footer: the last line.
    """

    title: str
    summary: str
    badges: Sequence[str]
    headlines: Sequence[Headline]
    sections: Sequence[Section]
    footer: str

    def to_html(self) -> str:
        """One file that loads nothing: figures are inside, there is no script, and every text is escaped."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("zoo_report"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        sections = [section for section in self.sections if section.parts]
        html = environment.get_template("report.html").render(page=self, sections=sections)
        # In a path, Python stands surrogates for bytes that it could not decode. A page is UTF-8 and has none.
        return html.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
