"""The container image of a release: built for each platform that this machine can, pushed as one, and read back."""

import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.release.commands import ReleaseError, buildable, run
from tools.release.sbom import LISTING


@dataclass(frozen=True)
class Registry:
    """Where artefacts go: `registry.example.com/team`, over TLS unless `plain_http`."""

    address: str
    plain_http: bool

    @property
    def podman_options(self) -> list[str]:
        """What podman needs to reach it."""
        return ["--tls-verify=false"] if self.plain_http else []

    @property
    def helm_options(self) -> list[str]:
        """What helm needs to reach it."""
        return ["--plain-http"] if self.plain_http else []


def build_and_push(
    root: Path, registry: Registry, tag: str, platforms: Sequence[str], options: Sequence[str]
) -> tuple[str, list[str]]:
    """Build `registry/starling:tag` for every platform that can be built here, and push it as one.

    Returns the image by its digest and the platforms that it is for. Raises ReleaseError where none can be built.
    """
    own = run("podman", "info", "--format", "{{.Host.Arch}}")
    built = [platform for platform in platforms if buildable(platform, own)]
    for platform in sorted({*platforms} - {*built}):
        print(f"{platform}: not built, since this builder runs {own} only (register qemu-user-static, or build there)")
    if not built:
        raise ReleaseError(f"none of {', '.join(platforms)} can be built on {own}")
    image = f"{registry.address}/starling:{tag}"
    # A name of this run alone: that of an earlier release may still be in use here.
    manifest = f"localhost/starling-release:{uuid.uuid4().hex}"
    run("podman", "manifest", "create", manifest)
    try:
        for platform in built:
            build = ["podman", "build", "--format", "docker", "--platform", platform, "--manifest", manifest]
            run(*build, *options, str(root))
            print(f"{platform}: built")
        with tempfile.NamedTemporaryFile() as digest:
            push = ["podman", "manifest", "push", "--all", "--format", "v2s2", *registry.podman_options]
            run(*push, "--digestfile", digest.name, manifest, f"docker://{image}")
            return f"{registry.address}/starling@{Path(digest.name).read_text().strip()}", built
    finally:
        run("podman", "manifest", "rm", manifest)


def base_digest(base: str) -> str:
    """The digest of the base image, pulled if it is not here; empty for one that no registry has given."""
    try:
        run("podman", "image", "exists", base)
    except ReleaseError:
        run("podman", "pull", "--quiet", base)
    return run("podman", "image", "inspect", "--format", "{{.Digest}}", base)


def listing(image: str, registry: Registry) -> str:
    """What the pushed image says it holds: see LISTING."""
    run("podman", "pull", "--quiet", *registry.podman_options, image)
    return run("podman", "run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", LISTING)
