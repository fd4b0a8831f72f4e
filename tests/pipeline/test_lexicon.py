from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.letters import ALPHABET, SLOTS, Letters
from pipeline.lexicon import Lexicon, LexiconError, Rows, Tree

PHONES = ("A", "B", "C")
SPOKEN = [(7, (0, 1)), (3, (0, 1, 2)), (5, (0, 1)), (2, (2,)), (2, (1, 1)), (2, (0, 1)), (3, (0, 1, 2))]


def letters(seed: int = 0) -> Letters:
    rng = np.random.default_rng(seed)
    shapes = ((len(ALPHABET), 4), (3, 4, 6), (6,), (3, 6, 6), (6,), (6, SLOTS * 4), (SLOTS * 4,))
    return Letters(*(rng.standard_normal(shape).astype(np.float16).astype(np.float32) for shape in shapes))


def lexicon() -> Lexicon:
    spoken = {"ab": ((0, 1), (0,)), "c": ((2,),)}
    return Lexicon.of(PHONES, ("_", "a", "b", "c"), spoken, {"ab": (0, 1, 2), "c": (3,)}, letters())


def walk(tree: Tree, root: int, phones: tuple[int, ...]) -> int | None:
    """Go down the tree by its bit sets; None where a branch ends."""
    node = root
    for phone in phones:
        children = int(tree.children[node])
        if not children >> phone & 1:
            return None
        node = int(tree.first_child[node]) + (children & (1 << phone) - 1).bit_count()
        assert tree.label[node] == phone
    return node


def words_at(tree: Tree, node: int) -> set[int]:
    return set(tree.words[tree.words_from[node] : tree.words_from[node + 1]].tolist())


def test_every_pronunciation_leads_to_its_words_from_every_root() -> None:
    tree = Tree.of(SPOKEN, len(PHONES))
    for root in range(len(PHONES) + 1):
        assert tree.label[root] == root
        for phones in ((0, 1), (0, 1, 2), (2,), (1, 1)):
            node = walk(tree, root, phones)
            assert node is not None
            assert words_at(tree, node) == {word for word, spoken in SPOKEN if spoken == phones}
        assert walk(tree, root, (1, 0)) is None
        assert words_at(tree, root) == set()


def test_beginnings_are_shared() -> None:
    tree = Tree.of(SPOKEN, len(PHONES))
    assert len(tree.label) == 4 + len({spoken[:n] for _, spoken in SPOKEN for n in range(1, len(spoken) + 1)})


def test_the_best_below_a_node_is_the_best_of_its_branch() -> None:
    tree = Tree.of(SPOKEN, len(PHONES))
    values = np.arange(8, dtype=np.float32) * -1
    best = tree.best_below(values)
    assert [best[root] for root in range(4)] == [-2] * 4
    assert best[walk(tree, 0, (0,))] == -2
    assert best[walk(tree, 0, (0, 1, 2))] == -3
    assert best[walk(tree, 3, (1,))] == -2


def test_parents_undo_children() -> None:
    tree = Tree.of(SPOKEN, len(PHONES))
    parents = tree.parents()
    for _, spoken in SPOKEN:
        for n in range(1, len(spoken) + 1):
            assert parents[walk(tree, 0, spoken[:n])] == walk(tree, 0, spoken[: n - 1])


@pytest.mark.parametrize("spoken", [[], [(1, ())], [(1, (3,))]])
def test_a_tree_that_cannot_be_is_refused(spoken: list[tuple[int, tuple[int, ...]]]) -> None:
    with pytest.raises(LexiconError, match="phone"):
        Tree.of(spoken, len(PHONES))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    lexicon().save(tmp_path / "lexicon.npz")
    loaded, original = Lexicon.load(tmp_path / "lexicon.npz"), lexicon()
    assert (loaded.phones, loaded.pieces) == (original.phones, original.pieces)
    assert dict(loaded.pronunciations) == dict(original.pronunciations)
    assert dict(loaded.spellings) == dict(original.spellings)
    for name, array in vars(loaded.letters).items():
        np.testing.assert_array_equal(array, getattr(original.letters, name))


def test_rows_of_unequal_length_as_a_table() -> None:
    rows = Rows.of([(1,), (), (2, 3, 4), (5, 6)], np.uint8)
    assert [rows[index] for index in range(len(rows))] == [(1,), (), (2, 3, 4), (5, 6)]
    assert rows.table(np.array([3, 0]), 9).tolist() == [[5, 6], [1, 9]]
    assert rows.table(np.array([2, 1]), -1).tolist() == [[2, 3, 4], [-1, -1, -1]]
    more = rows.followed_by(Rows.of([(7, 8)], np.uint8))
    assert [more[index] for index in (2, 3, 4)] == [(2, 3, 4), (5, 6), (7, 8)]


def test_words_are_added_and_spelled_with_the_fewest_pieces() -> None:
    words = Lexicon.of(PHONES, ("\u2581", "a", "b", "ab", "\u2581a"), {"b": ((1,),)}, {"b": (0, 2)}, letters())
    wider = words.widened({"aab": ((0, 0, 1), (0, 1))})
    assert wider.pronunciations == {"b": ((1,),), "aab": ((0, 0, 1), (0, 1))}
    assert wider.spellings == {"b": (0, 2), "aab": (4, 3)}
    assert "aab" in wider
    assert "aab" not in words
    assert words.spell("c") == ()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.npz"
    lexicon().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LexiconError, match=r"lexicon\.npz"):
        Lexicon.load(path)


def test_a_listed_word_is_looked_up_and_another_is_guessed() -> None:
    words = lexicon()
    assert words.pronounce("AB") == ((0, 1), (0,))
    guessed = words.pronounce("ba", 3)
    assert 0 < len(guessed) <= 3
    assert guessed == words.letters.pronounce("ba", 3)
    assert words.pronounce("42") == ()
