"""What a shelf of lessons believes, and what it lets others do."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from jupyter_cr.errors import CorruptImage, NameTaken, NoSuchSnapshot, StorageError
from jupyter_cr.store import Store
from jupyter_cr.store.shelf import Card, Lesson, Shelf, read_appointed
from tests.store.harness import take

CARD = Card(title="Lesson 3", publisher="Ada", published="2026-01-01T00:00:00", content="")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "lessons"
    made.mkdir()
    made.chmod(0o755)
    return made


def publish(store: Store, place: Path, name: str, title: str) -> Lesson:
    take(store, name, kernel_id=f"kernel-of-{name}")
    shelf = Shelf(str(place))
    shelf.publish(store, name, msgspec.structs.replace(CARD, title=title))
    return shelf.lesson(title)


def card_of(place: Path, lesson: Lesson) -> Path:
    return place / "lessons" / lesson.snapshot.id


def test_there_and_gone_again(place: Path) -> None:
    shelf, store = Shelf(str(place)), Store()
    lesson = publish(store, place, "a", "Lesson 3")
    assert [one.title for one in shelf.lessons()] == ["Lesson 3"]
    shelf.open(lesson).close()
    assert shelf.starts(lesson) == 0
    shelf.note_start(lesson)
    shelf.note_start(lesson)
    assert shelf.starts(lesson) == 2
    with pytest.raises(NameTaken):
        shelf.check_free("Lesson 3")
    with pytest.raises(NoSuchSnapshot, match="withdrawn") as raised:
        shelf.lesson("Lesson 4")
    assert "Lesson 3" in raised.value.hint
    shelf.withdraw("Lesson 3")
    assert shelf.lessons() == []
    assert not [path for path in place.rglob("*") if path.is_file() and path.name != "seed"]


def test_who_may_read_the_place_may_read_all(place: Path) -> None:
    lesson = publish(Store(), place, "a", "Lesson 3")
    for path in place.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.parent.name == "starts":
            # Others add to it, and read nothing of it.
            assert mode == 0o1733, oct(mode)
        elif path.is_dir():
            assert mode == 0o755, (path, oct(mode))
        else:
            assert mode == 0o644, (path, oct(mode))
    assert card_of(place, lesson).exists()


def test_of_a_group_only(place: Path) -> None:
    place.chmod(0o2770)
    publish(Store(), place, "a", "Lesson 3")
    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in place.rglob("*")
        if path.parent.name != "starts" and path.is_dir()
    }
    assert modes == {0o2770}
    assert not [p for p in place.rglob("*") if p.is_file() and p.stat().st_mode & 0o007]


def test_a_card_that_somebody_has_changed(place: Path) -> None:
    lesson = publish(Store(), place, "a", "Lesson 3")
    card = card_of(place, lesson)
    card.write_bytes(card.read_bytes().replace(b"Lesson 3", b"Lesson 4"))
    assert Shelf(str(place)).lessons() == []


def test_a_card_in_front_of_another_state(place: Path) -> None:
    store = Store()
    first = publish(store, place, "a", "Lesson 3")
    second = publish(store, place, "b", "Lesson 4")
    card_of(place, second).write_bytes(card_of(place, first).read_bytes())
    shelf = Shelf(str(place))
    titles = {lesson.snapshot.id: lesson for lesson in shelf.lessons()}
    with pytest.raises(CorruptImage, match="not what was published"):
        shelf.open(titles[second.snapshot.id])


def test_where_starts_are_not_counted(place: Path) -> None:
    lesson = publish(Store(), place, "a", "Lesson 3")
    starts = place / "starts" / lesson.snapshot.id
    for path in starts.iterdir():
        path.unlink()
    starts.rmdir()
    assert Shelf(str(place)).starts(lesson) is None


def test_who_is_appointed(tmp_path: Path) -> None:
    path = tmp_path / "teachers.json"
    with pytest.raises(StorageError, match=r"teachers\.json"):
        read_appointed(path)
    path.write_text('{"00": "Ada"}')
    path.chmod(0o644)
    assert read_appointed(path) == {"00": "Ada"}
    path.write_text('["00"]')
    with pytest.raises(StorageError, match="is not understood"):
        read_appointed(path)
    path.chmod(0o646)
    with pytest.raises(StorageError, match="Everybody can write"):
        read_appointed(path)
