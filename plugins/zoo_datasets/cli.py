"""``zoo clean-cache``. It imports torch when it runs."""

from __future__ import annotations

import click

from zoo.cli import json_option, print_json


@click.command("clean-cache", short_help="Delete decoded images that are no longer used.")
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    help="Delete images that have not been used for this many days.",
)
@json_option
def clean_cache_(days: float, as_json: bool) -> None:
    """Delete decoded images that have not been used for some time.

    Folders, arrays and CelebA are decoded into a cache. Deleted images are decoded again when they are needed.
    """
    from zoo_datasets.cache import clean_cache

    deleted = clean_cache(days)
    size = sum(size for _, size in deleted)
    if as_json:
        print_json({"deleted": [str(file) for file, _ in deleted], "bytes": size})
    else:
        click.echo(f"{len(deleted)} files deleted, {size / 1e6:.1f} MB.")
