"""The chart as it is released: pointing at the released image, with the metadata that only a release knows."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

_LINK = re.compile(r"\]\(\.\./\.\./([^)]+)\)")


@dataclass(frozen=True)
class Origin:
    """Where the project lives, and what of it is released."""

    project_url: str
    version: str

    def page(self, path: str) -> str:
        """The address of a file of the project at this version."""
        return f"{self.project_url}/blob/v{self.version}/{path}"


def released_chart(chart: Path, directory: Path, origin: Origin, image: str, changes: list[tuple[str, str]]) -> Path:
    """Copy `chart` into `directory` with everything that a release adds to it, and return where it is.

    `image` is `registry/name@sha256:…`; `changes` are pairs of a kind (`added`, `changed`, …) and a sentence.
    """
    copy = directory / chart.name
    shutil.copytree(chart, copy)
    repository, _, digest = image.partition("@")
    values = (copy / "values.yaml").read_text()
    values = _replaced(values, "  repository: starling\n", f"  repository: {repository}\n")
    values = _replaced(values, '  digest: ""\n', f"  digest: {digest}\n")
    (copy / "values.yaml").write_text(values)
    readme = copy / "README.md"
    readme.write_text(_LINK.sub(lambda link: f"]({origin.page(link[1])})", readme.read_text()))
    metadata = copy / "Chart.yaml"
    metadata.write_text(metadata.read_text() + _metadata(origin, image, changes))
    return copy


def _metadata(origin: Origin, image: str, changes: list[tuple[str, str]]) -> str:
    annotations = {
        "artifacthub.io/changes": yaml.safe_dump(
            [{"kind": kind, "description": text} for kind, text in changes], sort_keys=False, allow_unicode=True
        ),
        "artifacthub.io/images": yaml.safe_dump([{"name": "starling", "image": image}]),
        "artifacthub.io/links": yaml.safe_dump(
            [
                {"name": "Documentation", "url": origin.page("docs/deploy-on-kubernetes.md")},
                {"name": "Changelog", "url": origin.page("CHANGELOG.md")},
            ]
        ),
    }
    # `annotations` is the last key of the file, so that its further entries can follow it.
    block = "".join(
        f"  {name}: |\n" + "".join(f"    {line}\n" for line in text.splitlines()) for name, text in annotations.items()
    )
    icon = f"{origin.project_url}/raw/v{origin.version}/docs/starling.svg"
    return block + f"home: {origin.project_url}\nsources: [{origin.project_url}]\nicon: {icon}\n"


def _replaced(text: str, old: str, new: str) -> str:
    """`text` with the first `old` replaced. Raises ValueError where it is not there."""
    if old not in text:
        raise ValueError(f"values.yaml has no line {old!r} any more")
    return text.replace(old, new, 1)
