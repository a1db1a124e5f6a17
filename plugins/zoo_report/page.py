"""The elements of a report page, and its rendering as one HTML file."""

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
"""CSS pixels per inch."""


class Part(Protocol):
    """An element of a section. The template has a macro for each kind."""

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
        title: of the figure.
        alt: alternative text.
        image: PNG.
        caption: text below the figure.
        chart: whether it is a chart, whose colours are inverted on dark pages, as opposed to images.
        headed: whether to print the title above the figure; False if the figure contains it.
    """

    title: str
    alt: str
    image: bytes
    caption: str = ""
    chart: bool = False
    headed: bool = True

    @classmethod
    def of(cls, figure: Figure, title: str, alt: str, caption: str = "", **options: bool) -> Picture:
        """Encode a figure."""
        return cls(title, alt, png(figure), caption, **options)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels at which text has its original size."""
        width, height = struct.unpack(">II", self.image[16:24])
        return round(width * CSS_PIXELS / DPI), round(height * CSS_PIXELS / DPI)

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.image).decode()


@dataclass(frozen=True)
class Gallery:
    """Pictures, side by side if there is space."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: text above the table.
        header, rows: the cells; the first cell of each row is its header.
        numbers: columns aligned to the right.
        marked: index of the highlighted row.
        notes: text below the table.
        folded: whether only the caption is shown until it is opened.
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
    """Names and values."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Preformatted text with a title."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading. A section without parts is left out."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """The target of links to the section."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Headline:
    """A number at the top of the page.

    Attributes:
        name: of the number.
        value: the number.
        unit: printed after it.
        note: printed below it, such as its protocol.
    """

    name: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A report page.

    Attributes:
        title: the heading.
        summary: the line below the heading.
        badges: short facts.
        headlines: the numbers at the top.
        sections: the sections below them.
        footer: the last line.
    """

    title: str
    summary: str
    badges: Sequence[str]
    headlines: Sequence[Headline]
    sections: Sequence[Section]
    footer: str

    def to_html(self) -> str:
        """Render the page as one HTML file with embedded figures, escaped text and no script."""
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
        # Paths may contain surrogates for bytes that are not UTF-8.
        return html.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
