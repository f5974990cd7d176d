"""`python -m tools.release`: builds, pushes, describes and signs a release. `make release` calls it."""

import argparse
import hashlib
import re
import sys
import tempfile
from pathlib import Path

from starling import __version__
from tools.release.changelog import changes, release_notes
from tools.release.chart import Origin, released_chart
from tools.release.commands import HELM, ReleaseError, run
from tools.release.images import Registry, base_digest, build_and_push, listing
from tools.release.provenance import provenance
from tools.release.sbom import sbom
from tools.release.signing import Signer

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "starling"


def main() -> int:
    """Make the release, and say what could not be done."""
    try:
        release(_parser().parse_args())
    except ReleaseError as error:
        print(f"make release: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.release")
    parser.add_argument("--registry", required=True, help="where image and chart go, as registry.example.com/team")
    parser.add_argument(
        "--project-url", required=True, help="where the project lives, as https://git.example.com/starling"
    )
    parser.add_argument("--platforms", default="linux/amd64,linux/arm64")
    parser.add_argument("--base-image", default=_default_base())
    parser.add_argument("--sign", default="", help="path of cosign's key, or keyless; empty: no signature")
    parser.add_argument("--builder", default="https://localhost/by-hand", help="who builds, for the provenance")
    parser.add_argument("--plain-http", action="store_true", help="the registry speaks HTTP, as a local one does")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--image-option", action="append", default=[], help="a further option of podman build")
    return parser


def release(asked: argparse.Namespace) -> None:
    """Make everything that belongs to a release. Raises ReleaseError where it cannot go on."""
    output: Path = asked.output
    output.mkdir(parents=True, exist_ok=True)
    for old in filter(Path.is_file, output.iterdir()):
        old.unlink()
    registry = Registry(asked.registry.rstrip("/"), asked.plain_http)
    origin = Origin(asked.project_url.rstrip("/"), __version__)
    revision = run("git", "rev-parse", "HEAD", directory=ROOT)
    created = run("git", "log", "-1", "--format=%cI", directory=ROOT)
    notes = release_notes((ROOT / "CHANGELOG.md").read_text(), __version__)
    (output / "RELEASE-NOTES.md").write_text(notes)
    run(sys.executable, "-m", "hatchling", "build", "--directory", str(output), directory=ROOT)
    arguments = {
        "BASE_IMAGE": asked.base_image,
        "BASE_DIGEST": base_digest(asked.base_image),
        "CREATED": created,
        "PROJECT_URL": origin.project_url,
        "REVISION": revision,
        "VERSION": __version__,
    }
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()] + asked.image_option
    image, platforms = build_and_push(ROOT, registry, __version__, asked.platforms.split(","), options)
    chart, chart_file = _push_chart(output, registry, origin, image, notes)
    materials = output / f"starling-{__version__}.cdx.json"
    materials.write_text(sbom(listing(image, registry), "starling", __version__, created))
    statement = output / f"starling-{__version__}.provenance.json"
    subjects = {**_digests(output), image.partition("@")[0]: image.partition("@sha256:")[2]}
    statement.write_text(
        provenance(
            subjects,
            source=origin.project_url,
            revision=revision,
            builder=asked.builder,
            parameters={**arguments, "PLATFORMS": ",".join(platforms)},
            created=created,
        )
    )
    signer = Signer(asked.sign, registry)
    signed = [signer.sign(reference) for reference in (image, chart)]
    signer.attest(image, "cyclonedx", materials)
    signer.attest(image, "slsaprovenance1", statement)
    lines = [f"{digest}  {name}\n" for name, digest in sorted(_digests(output).items())]
    (output / "SHA256SUMS").write_text("".join(lines))
    print(f"image   {image} ({', '.join(platforms)})")
    print(f"chart   {chart} ({chart_file.name})")
    print("signed  " + (asked.sign if all(signed) else "no: SIGN names neither a key nor keyless"))
    print(f"files   {', '.join(sorted(path.name for path in output.iterdir()))}")


def _push_chart(output: Path, registry: Registry, origin: Origin, image: str, notes: str) -> tuple[str, Path]:
    """Pack the chart with what the release adds and push it; returns it by its digest, and its file."""
    with tempfile.TemporaryDirectory() as directory:
        copy = released_chart(CHART, Path(directory), origin, image, changes(notes))
        run(HELM, "lint", "--strict", "--quiet", str(copy))
        run(HELM, "package", "--destination", str(output), str(copy))
    (packed,) = output.glob(f"starling-{__version__}.tgz")
    pushed = run(HELM, "push", *registry.helm_options, str(packed), f"oci://{registry.address}/charts")
    digest = re.search(r"sha256:[0-9a-f]{64}", pushed)
    if digest is None:
        digest = re.search(r"sha256:[0-9a-f]{64}", _shown(registry))
    if digest is None:
        raise ReleaseError("helm push named no digest")
    return f"{registry.address}/charts/starling@{digest[0]}", packed


def _shown(registry: Registry) -> str:
    """What helm says of the pushed chart: it prints the digest on standard error, which `run` leaves out."""
    with tempfile.TemporaryDirectory() as directory:
        reference = f"oci://{registry.address}/charts/starling"
        pull = [HELM, "pull", *registry.helm_options, reference, "--version", __version__]
        return run("sh", "-c", '"$@" 2>&1', "sh", *pull, "--destination", directory)


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def _default_base() -> str:
    """The base image that the Dockerfile names."""
    found = re.search(r"(?m)^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text())
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(main())
