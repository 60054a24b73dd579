"""The syntax of CIF: what is a value, what is a row, and in which line it begins."""

from __future__ import annotations

from molsampler.molecules.loading.cif import Row, read_cif

TEXT = """\
# a comment
data_ONE
_cell.length_a   30.0   # another
_cell.Length_B   ?
_other.text
;first
second
;
loop_
_site.id
_site.name
_site.words
1 "O5'" 'a dog's life'
2 C#1 '?' 3 .
;several
 lines
; 4 not 'but "_this"'
data_TWO
_site.id 7
loop_ _cell.length_a 1 2
"""


def test_tables_of_each_block():
    one, two = read_cif(TEXT, "it", {"cell", "site"})
    assert one["cell"] == [Row(3, {"length_a": "30.0"})]
    assert one["site"] == [
        Row(13, {"id": "1", "name": "O5'", "words": "a dog's life"}),
        Row(14, {"id": "2", "name": "C#1", "words": "?"}),
        Row(14, {"id": "3", "words": "several\n lines"}),
        Row(17, {"id": "4", "name": "not", "words": 'but "_this"'}),
    ]
    assert two == {"site": [Row(19, {"id": "7"})], "cell": [Row(20, {"length_a": "1"}), Row(20, {"length_a": "2"})]}


def test_the_first_value_that_is_given():
    row = Row(1, {"a": "1", "c": "3"})
    assert (row.get("a", "c"), row.get("b", "c"), row.get("b")) == ("1", "3", "")
