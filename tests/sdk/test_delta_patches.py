"""Patches of deltas, applied by the published SDKs' own functions."""

import json
import subprocess
from pathlib import Path

import pytest
from centrifuge import fossil

from starling.protocol.delta import create_patch
from tests.sdk.documents import edited_documents


@pytest.mark.parametrize("edits", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_both_sdks_make_the_exact_document_of_every_patch_in_every_script(tmp_path: Path, edits: int) -> None:
    patched = 0
    lines = tmp_path / "patches.jsonl"
    with lines.open("w") as file:
        for base, target in edited_documents(edits, seed=20261129):
            patch = create_patch(base.encode(), target.encode())
            if patch is None:
                continue
            patched += 1
            assert bytes(fossil.apply_delta(base.encode(), patch)) == target.encode()
            file.write(json.dumps([base, patch.decode(), target]) + "\n")
    with lines.open() as file:
        script = Path(__file__).with_name("apply_patches.js")
        answer = subprocess.run(["node", script], stdin=file, capture_output=True, text=True, check=True)

    assert json.loads(answer.stdout) == {"lines": patched, "wrong": 0}
    assert patched > edits / 2, "most edits are worth a patch"
