"""docs/design.md draws the house as it is."""

from __future__ import annotations

from docs import make_house
from tests.test_house import FLOORS, MODULES, PACKAGE

TEXT = make_house.FILE.read_text("utf-8")


def test_the_picture_and_the_lists_are_current() -> None:
    assert make_house.document(TEXT) == TEXT, "run: python -m docs.make_house"


def test_every_room_and_every_file_is_drawn() -> None:
    drawn = make_house.picture()
    assert all(make_house.label(room) in drawn for floor in FLOORS for room in floor)
    named: dict[str, str] = {}
    for path in MODULES:
        if path.name != "__init__.py" and path.parent != PACKAGE:
            room, *rest = path.relative_to(PACKAGE).parts
            if room not in named:
                named[room] = "\n".join(make_house.files(room))
            assert f"- `{'/'.join(rest)}`: " in named[room], path


def test_a_room_that_is_built_is_no_longer_to_come() -> None:
    assert not set(make_house.coming()) & {room for floor in FLOORS for room in floor}
    assert all((PACKAGE / room).is_dir() is False for room in make_house.coming())
