"""`python -m tools.docs`: writes every file that is made from the application or from another file."""

from tools.docs.written import ROOT, written_files

for path, text in written_files().items():
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
