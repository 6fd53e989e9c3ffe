"""One tar per class, in a folder or in another tar such as ImageNet's ILSVRC2012_img_train.tar. Read in place."""

import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, cast

from vitctl.data.sources.contract import Declared, FoundImage, Refused, Sighting
from vitctl.data.sources.files import Place, Window
from vitctl.data.sources.image_tree import SkippedFiles
from vitctl.data.sources.names import extension, is_image_name, is_junk, join_parts, printable
from vitctl.data.sources.tars import TarSource, headers, tar_entry


class ClassTar(NamedTuple):
    label: str
    file: int  # index in `ClassTars.tars`
    offset: int
    size: int


class ClassTars(TarSource):
    kind = "class-tars"

    def __init__(self, paths: Sequence[Place], where: str, nested: bool) -> None:
        """`nested`: there is one path, a tar of tars."""
        super().__init__(paths, where)
        self.nested, self.skipped = nested, SkippedFiles()

    def sightings(self) -> Iterator[Sighting]:
        self.skipped = SkippedFiles()
        for tar in self.class_tars():
            if isinstance(tar, Refused):
                yield tar
            else:
                yield Declared(tar.label)
                yield from self.images(tar)

    def class_tars(self) -> Iterator[ClassTar | Refused]:
        if not self.nested:
            for number, tar in enumerate(self.tars):
                yield ClassTar(class_of(tar.path.name), number, 0, tar.file.size)
            return
        for entry in self.tars[0].walk():
            if isinstance(entry, Refused):
                yield entry
            elif not entry.is_folder and extension(entry.parts[-1]) == "tar":
                yield ClassTar(class_of(entry.parts[-1]), 0, entry.offset, entry.size)
            elif not entry.is_folder:
                self.skipped.file(entry.parts[-1])

    def images(self, tar: ClassTar) -> Iterator[FoundImage | Refused]:
        file = self.tars[tar.file].file
        stream = cast(BinaryIO, io.BufferedReader(Window(file, tar.offset, tar.size), 1 << 16))
        for header in headers(stream, f"{file.path}, {tar.label}.tar"):
            entry = tar_entry(header)
            if isinstance(entry, Refused):
                yield Refused(f"{tar.label}/{entry.name}", entry.reason)
            elif entry.is_folder or any(map(is_junk, entry.parts)):
                continue
            elif is_image_name(entry.parts[-1]):
                name = f"{tar.label}/{join_parts(entry.parts)}"
                yield FoundImage(name, tar.label, None, tar.file, tar.offset + entry.offset, entry.size)
            else:
                self.skipped.file(entry.parts[-1])

    def no_images_message(self) -> str:
        return f"{self.where}: no image in its tars; looked for one tar per class, such as n01440764.tar"

    def notes(self) -> list[str]:
        return self.skipped.notes()


def class_of(name: str) -> str:
    """'n01440764' for n01440764.tar and n01440764.tar.gz."""
    return printable(name.partition(".tar")[0].partition(".tgz")[0])
