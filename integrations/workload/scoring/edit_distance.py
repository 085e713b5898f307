"""The edit distance of two texts: insertions, deletions and substitutions of characters.

Knows strings. The algorithm is Myers's bit vectors in the form of Hyyro (2003), on Python's long integers: one step a
character of the second text, whatever the length of the first.
"""

from __future__ import annotations


def distance(one: str, other: str) -> int:
    """Returns the least number of characters to insert, delete or replace."""
    if not one or not other:
        return len(one) + len(other)
    everywhere, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    places: dict[str, int] = {}
    for at, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << at
    up, down, found = everywhere, 0, len(one)  # vertical differences of +1 and -1 in the present column
    for character in other:
        equal = places.get(character, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right, left = down | (~(diagonal | up) & everywhere), up & diagonal
        found += bool(right & last) - bool(left & last)
        right, left = (right << 1) | 1, left << 1
        up, down = (left | ~(diagonal | right)) & everywhere, right & diagonal & everywhere
    return found


def similarity(one: str, other: str) -> float:
    """Returns 1 minus the distance over the longer length: 1 for equal texts, 0 where no character stays."""
    longest = max(len(one), len(other))
    return 1 - distance(one, other) / longest if longest else 1.0
