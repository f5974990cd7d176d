"""`make typescript-check`: check the TypeScript of docs/javascript.md and docs/react-native.md.

The packages come from npm into build/typescript; React Native alone is 190 MB, so the tests do without it.
"""

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "typescript"
PACKAGES = {
    "@types/react": "19.3.3",
    "centrifuge": "5.8.0",
    "react": "19.3.1",
    "react-native": "0.88.1",
    "typescript": "7.0.2",
}
_FILE = re.compile(r"^`([\w.]+\.tsx?)`:\n\n```tsx?\n(.*?)```", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"```ts\n(.*?)```", re.DOTALL)
_OPTIONS = {"strict": True, "noEmit": True, "target": "ES2022", "module": "ESNext", "moduleResolution": "bundler"}
# The browser's program and the native one have different globals.
_PROJECTS: dict[str, dict[str, object]] = {
    "browser": {**_OPTIONS, "lib": ["ES2022", "DOM"], "types": []},
    "native": {**_OPTIONS, "lib": ["ES2022"], "types": ["react-native"], "jsx": "react-native", "skipLibCheck": True},
}


def programs() -> dict[str, dict[str, str]]:
    """The files of each project."""
    (browser,) = _BLOCK.findall((ROOT / "docs" / "javascript.md").read_text())
    return {
        "browser": {"chat.ts": browser},
        "native": dict(_FILE.findall((ROOT / "docs" / "react-native.md").read_text())),
    }


def main() -> None:
    """Write the programs, install the packages and check. Raises SystemExit where the types are wrong."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text(json.dumps({"private": True, "dependencies": PACKAGES}))
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional"]
    subprocess.run(install, cwd=FOLDER, check=True)  # noqa: S603 - fixed words
    # The compiler itself is an optional package.
    subprocess.run([*install[:-1], "--no-save", "typescript@" + PACKAGES["typescript"]], cwd=FOLDER, check=True)  # noqa: S603
    for name, files in programs().items():
        project = FOLDER / name
        project.mkdir(exist_ok=True)
        for path, text in files.items():
            (project / path).write_text(text)
        (project / "tsconfig.json").write_text(json.dumps({"compilerOptions": _PROJECTS[name]}))
        compiler = FOLDER / "node_modules" / ".bin" / "tsc"
        done = subprocess.run([compiler, "--project", project], check=False)  # noqa: S603 - fixed words
        if done.returncode:
            raise SystemExit(f"the programs of {name} have wrong types")
        print(f"{name}: {', '.join(files)}")


if __name__ == "__main__":
    main()
