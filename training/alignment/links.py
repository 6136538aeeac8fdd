"""Word links of many pairs: Pharaoh lines, and symmetrising."""

from collections.abc import Collection
from pathlib import Path

from training.groups import Links, from_pharaoh


class LinksInvalid(ValueError):
    """Links that cannot be read or do not fit their words; names the file and the line."""


def parse(line: str, *, place: str) -> Links:
    """Read one line of `i-j` pairs.

    Raises:
        LinksInvalid: something else stands there; `place` is named, e.g. `FILE:LINE`.
    """
    try:
        return tuple(sorted(set(from_pharaoh(line))))
    except ValueError as error:
        raise LinksInvalid(f"{place}: {error}, e.g. 0-2") from error


def checked(links: Links, *, sizes: tuple[int, int], place: str) -> Links:
    """The links as they are.

    Raises:
        LinksInvalid: one points beyond the words.
    """
    for left, right in links:
        if left >= sizes[0] or right >= sizes[1]:
            raise LinksInvalid(
                f"{place}: link {left}-{right} leads beyond the {sizes[0]} source or the"
                f" {sizes[1]} target words, which are counted from 0"
            )
    return links


def read_pharaoh(path: Path) -> list[Links]:
    """The links of a file, a pair a line.

    Raises:
        LinksInvalid: a bad line, or no such file.
    """
    lines = lines_of(path)
    return [parse(line, place=f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def lines_of(path: Path) -> list[str]:
    """The lines of a file, which end at a line feed and, as for the aligners, at nothing else.

    Raises:
        LinksInvalid: no such file, or it is not UTF-8.
    """
    try:
        whole = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LinksInvalid(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    lines = whole.split("\n")
    return lines if lines[-1] else lines[:-1]


def alone(links: Links) -> Links:
    """The links both of whose words have no other one."""
    left = [link[0] for link in links]
    right = [link[1] for link in links]
    return tuple(link for link in links if left.count(link[0]) == 1 and right.count(link[1]) == 1)


def grow_diag_final_and(
    forward: Collection[tuple[int, int]], backward: Collection[tuple[int, int]]
) -> Links:
    """Both directions' links in one (Koehn et al. 2005, IWSLT, sec. 2; Och and Ney 2003).

    From the intersection, links of the union that touch a link already taken (diagonally too) and
    have a word without any are added until none is left, then those whose words both have none.
    """
    forward, backward = set(forward), set(backward)
    union = sorted(forward | backward)
    taken = forward & backward
    left, right = {i for i, _ in taken}, {j for _, j in taken}

    def take(link: tuple[int, int]) -> None:
        taken.add(link)
        left.add(link[0])
        right.add(link[1])

    grown = True
    while grown:
        grown = False
        for link in union:
            if link not in taken and not (link[0] in left and link[1] in right):
                i, j = link
                around = ((i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b)
                if any(neighbour in taken for neighbour in around):
                    take(link)
                    grown = True
    for direction in (forward, backward):
        for link in sorted(direction - taken):
            if link[0] not in left and link[1] not in right:
                take(link)
    return tuple(sorted(taken))
