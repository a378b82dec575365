"""Taxonomies: the shipped one names every class well; what is wrong with a file is said; parents are never less sure than children."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aboveboard.errors import BadRequest
from aboveboard.vision.labelling import Entry, Filter, Taxonomy, read_taxonomy

TEXT = (resources.files("aboveboard.vision") / "taxonomies" / "imagenet.tsv").read_text(encoding="utf-8")
HEAD = "class\tkey\tlabel\tparents\tcategory\taliases\n"
CATEGORIES = {
    "Animals and Pets", "Apparel and Accessories", "Beauty and Personal Care", "Buildings and Architecture", "Education",
    "Events and Attractions", "Everyday Objects", "Food and Beverage", "Furniture and Furnishings", "Health and Fitness",
    "Hobbies and Interests", "Home Appliances", "Home and Indoors", "Kitchen and Dining", "Materials", "Medical",
    "Nature and Outdoors", "Offices and Workspaces", "Patterns and Shapes", "Person Description", "Plants and Flowers",
    "Public Safety", "Religion", "Sports", "Symbols and Flags", "Technology and Computing", "Text and Documents",
    "Tools and Machinery", "Toys and Gaming", "Transport and Logistics", "Travel and Adventure", "Vehicles and Automotive",
    "Weapons and Military",
}  # fmt: skip
"""Amazon's, of those that the taxonomy uses."""


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return read_taxonomy(TEXT, "imagenet.tsv")


def entry(taxonomy: Taxonomy, name: str) -> Entry:
    return next(one for one in taxonomy.entries if one.name == name)


def test_every_class_of_imagenet_has_a_label_with_a_parent_and_a_category(taxonomy):
    """1,000 outputs, each of exactly one label, each label under Amazon's limit of a filter's length and pattern."""
    lines = [line.split("\t") for line in TEXT.splitlines() if not line.startswith("#")][1:]
    with_class = [line for line in lines if re.search(r"\d", line[0])]
    assert sorted(int(one) for line in with_class for one in line[0].split()) == list(range(1000))
    assert taxonomy.classes == 1000
    assert all(line[3] and line[4] for line in with_class)
    assert {one.category for one in taxonomy.entries} <= CATEGORIES
    names = [name for one in taxonomy.entries for name in (one.name, *one.aliases)]
    assert all(re.fullmatch(r"[A-Za-z0-9àâèçñó'\-_(). ]{1,50}", name) for name in names)
    assert len({name.casefold() for name in names}) == len(names)
    assert len(set(taxonomy.keys)) == 1000
    assert all(re.fullmatch(r"n\d{8}", key) for key in taxonomy.keys)


@pytest.mark.parametrize(
    ("name", "parents", "category"),
    [
        ("Hot Dog", {"Food"}, "Food and Beverage"),
        ("Chair", {"Furniture"}, "Furniture and Furnishings"),
        ("Folding Chair", {"Chair", "Furniture"}, "Furniture and Furnishings"),
        ("Dog", {"Canine", "Mammal", "Animal", "Pet"}, "Animals and Pets"),
        ("Golden Retriever", {"Retriever", "Dog", "Canine", "Mammal", "Animal", "Pet"}, "Animals and Pets"),
        ("Cat", {"Mammal", "Animal", "Pet"}, "Animals and Pets"),
        ("Terrier", {"Dog", "Canine", "Mammal", "Animal", "Pet"}, "Animals and Pets"),
        ("Suit", {"Clothing", "Formal Wear"}, "Apparel and Accessories"),
        ("Tie", {"Accessories", "Formal Wear"}, "Apparel and Accessories"),
        ("Sunglasses", {"Accessories"}, "Apparel and Accessories"),
        ("Shoe", {"Footwear", "Clothing"}, "Apparel and Accessories"),
        ("Stone Wall", {"Wall", "Building", "Architecture"}, "Buildings and Architecture"),
        ("Couch", {"Furniture"}, "Furniture and Furnishings"),
        ("Convertible", {"Car", "Vehicle", "Transportation"}, "Vehicles and Automotive"),
        ("Face", {"Head", "Person"}, "Person Description"),
    ],
)
def test_labels_are_named_and_placed_as_amazons(taxonomy, name, parents, category):
    found = entry(taxonomy, name)
    assert set(found.parents) == parents
    assert found.category == category


@pytest.mark.parametrize(("key", "label"), [("n07697537", "Hot Dog"), ("n03376595", "Folding Chair"), ("n02099601", "Golden Retriever")])
def test_a_class_is_called_what_its_synset_is(taxonomy, key, label):
    assert entry(taxonomy, label).classes == (taxonomy.keys[key],)


def test_chair_dog_and_cat_are_the_sum_of_their_kinds(taxonomy):
    """118 kinds of dogs and 5 of cats, as ImageNet has them."""
    assert entry(taxonomy, "Dog").classes == tuple(range(151, 269))
    assert entry(taxonomy, "Cat").classes == tuple(range(281, 286))
    assert len(entry(taxonomy, "Chair").classes) == 4


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 4))
def test_a_parent_is_never_less_sure_than_what_is_below_it(seed, spread):
    taxonomy = read_taxonomy(TEXT, "imagenet.tsv")
    logits = np.random.default_rng(seed).normal(size=1000) * spread**2
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    confidence = {one.name: one.confidence(probabilities) for one in taxonomy.entries}
    assert all(confidence[parent] >= confidence[one.name] for one in taxonomy.entries for parent in one.parents)
    assert 0 <= min(confidence.values()) <= max(confidence.values()) <= 100
    assert np.allclose(100 * taxonomy.shares(probabilities), list(confidence.values()), atol=1e-9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "first line"),
        ("label\tclass\n", "first line"),
        (HEAD + "0\t\tA\n", "line 2: it has 3 columns"),
        (HEAD + "0\t\t\tB\tX\t\n", "line 2: the label has no name"),
        (HEAD + "0\t\tA\t\tX\t\n", "line 2: 'A' has no parent"),
        (HEAD + "0\t\tA\tB\t\t\n\t\tB\t\tX\t\n", "line 2: 'A' has no category"),
        (HEAD + "\t\tB\t\tX\t\n0\t\tA\tB\tX\tB\n", "line 3: 'B' is there already"),
        (HEAD + "\t\tB\t\tX\t\n0 0\t\tA\tB\tX\t\n", "line 3: the class '0' is taken"),
        (HEAD + "\t\tB\t\tX\t\none\t\tA\tB\tX\t\n", "line 3: the class 'one' is no number"),
        (HEAD + "\t\tB\t\tX\t\n1\t\tA\tB\tX\t\n", "0 to 0"),
        (HEAD + "0\t\tA\tB\tX\t\n", "'B', above 'A', is no label"),
        (HEAD + "0\t\tA\tB\tX\t\n\t\tB\tA\tX\t\n", "above 'A', is below it as well"),
    ],
)
def test_what_is_wrong_with_a_taxonomy_is_said(text, says):
    with pytest.raises(BadRequest, match=re.escape(says)):
        read_taxonomy(text, "own.tsv")


def test_filters_take_what_any_inclusion_names_less_the_exclusions(taxonomy):
    def taken(**how):
        chosen = Filter(**{name: frozenset(value) for name, value in how.items()}).chosen(taxonomy)
        return {one.name for one, is_chosen in zip(taxonomy.entries, chosen, strict=True) if is_chosen}

    everything = taken()
    assert len(everything) == len(taxonomy.entries)
    assert taken(labels=["Dog"]) == {"Dog"}
    assert taken(labels=["Hotdog"]) == {"Hot Dog"}
    assert taken(labels=["dog"]) == set()
    assert taken(labels=["Dog"], categories=["Religion"]) == {"Dog"} | {one.name for one in taxonomy.entries if one.category == "Religion"}
    assert taken(no_labels=["Dog"]) == everything - {"Dog"}
    assert taken(categories=["Religion"], no_labels=["Mosque"]) == taken(categories=["Religion"]) - {"Mosque"}
    assert taken(labels=["Mosque"], no_categories=["Religion"]) == set()
    named = Filter(frozenset({"Dog", "Unicorn"}), no_categories=frozenset({"Myths"}))
    assert named.unknown(taxonomy) == ["Myths", "Unicorn"]
