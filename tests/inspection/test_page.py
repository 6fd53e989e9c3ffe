from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from vitctl.inspection.page import Section, write_page


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.sources += [str(values[name]) for name in ("src", "href") if name in values]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_is_whole_asks_for_nothing_and_shows_names_as_they_are(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "figure.png")
    nasty = '<script>alert("x")</script> & "quotes"'
    sections = [
        Section(nasty, nasty, (tmp_path / "figure.png",)),
        Section("table", table=[["a", "b"], ["1", nasty]], command=f"vitctl {nasty}"),
    ]
    write_page(tmp_path / "index.html", nasty, nasty, {"weights": nasty}, sections, "end")
    reader = Reader()
    reader.feed((tmp_path / "index.html").read_text())
    assert not reader.open
    assert reader.sources
    assert all(source.startswith("data:") for source in reader.sources)
    assert reader.text.count(nasty) >= 6
    assert "<script" not in (tmp_path / "index.html").read_text()
