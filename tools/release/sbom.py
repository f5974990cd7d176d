"""The software bill of materials of an image, in CycloneDX 1.6 (JSON), from what the image itself says it holds."""

import json
import uuid
from typing import Any
from urllib.parse import quote

# Runs in the image: one JSON object with the distributions of the environment and Debian's packages.
LISTING = """
import importlib.metadata as metadata, json, pathlib, platform, re
python = [[each.name, each.version] for each in metadata.distributions()]
status = pathlib.Path("/var/lib/dpkg/status")
blocks = status.read_text().split("\\n\\n") if status.exists() else []
fields = [dict(re.findall(r"(?m)^(Package|Version|Architecture): (.+)$", block)) for block in blocks]
debian = [[each["Package"], each["Version"], each["Architecture"]] for each in fields if len(each) == 3]
print(json.dumps({"python": python, "debian": debian, "runtime": platform.python_version()}))
"""


def sbom(listing: str, name: str, version: str, created: str) -> str:
    """The document for what LISTING printed. `created` is a time in ISO 8601; equal input gives an equal document."""
    held = json.loads(listing)
    components = [
        _component("library", package, number, f"pkg:pypi/{_python_name(package)}@{number}")
        for package, number in held["python"]
    ]
    components += [
        _component("library", package, number, f"pkg:deb/debian/{package}@{quote(number)}?arch={architecture}")
        for package, number, architecture in held["debian"]
    ]
    components.append(_component("platform", "python", held["runtime"], f"pkg:generic/python@{held['runtime']}"))
    components.sort(key=lambda component: component["bom-ref"])
    main = _component("container", name, version, f"pkg:oci/{name}@{version}")
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([name, version, created, components])).urn,
        "version": 1,
        "metadata": {"timestamp": created, "component": main},
        "components": components,
    }
    return json.dumps(document, indent=2) + "\n"


def _component(kind: str, name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _python_name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
