"""Signed notes, cosignatures and proofs, against the published example and against whoever would forge them."""

import pytest
from hypothesis import given, strategies as st
from trees import leaves_of

from enforcer import notes, tlog
from enforcer.keys import KeySet, SigningKey
from enforcer.notes import COSIGNATURE, LogInvalid, Note, NoteKey, Witnesses
from enforcer.tiles import in_memory
from enforcer.tlog import Proof

ORIGIN = "registry.example/tlog"
LOG = SigningKey.generate()
ONE, TWO = SigningKey.generate(), SigningKey.generate()
ENTRIES = [b'{"id":"e%d"}' % number for number in range(9)]
TREE = in_memory([tlog.leaf_hash(entry) for entry in ENTRIES])
NOTE = tlog.sign_checkpoint(ORIGIN, TREE.size, TREE.root, LOG)
PROOF = Proof(3, tuple(TREE.inclusion(3)), NOTE, ENTRIES[3])

# The example of golang.org/x/mod/sumdb/note, which C2SP signed-note describes.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def cosigned(*witnesses: SigningKey, note: str = NOTE) -> str:
    text = Note.parse(note).text
    return notes.attach(
        note, [notes.cosign(text, f"w{n}.example", key, 1_700_000_000) for n, key in enumerate(witnesses)]
    )


def test_the_published_example_holds_and_a_changed_one_does_not() -> None:
    key = NoteKey.parse(PETER)

    assert (key.vkey, Note.parse(PETERS_NOTE).signed_at(key)) == (PETER, 0)
    with pytest.raises(LogInvalid, match="`PeterNeumann` does not hold"):
        Note.parse(PETERS_NOTE.replace("answer", "question")).signed_at(key)


def test_a_cosignature_says_when() -> None:
    witness = NoteKey.of(ONE, "w0.example", COSIGNATURE)

    assert Note.parse(cosigned(ONE)).signed_at(witness) == 1_700_000_000
    assert Note.parse(NOTE).signed_at(witness) is None
    assert tlog.open_checkpoint(cosigned(ONE), KeySet.of(LOG)).size == 9


def test_a_quorum_counts_keys_and_not_names() -> None:
    keys = (NoteKey.of(ONE, "w0.example", COSIGNATURE), NoteKey.of(TWO, "w1.example", COSIGNATURE))
    twice = (keys[0], NoteKey.of(ONE, "w1.example", COSIGNATURE))

    Witnesses(keys, 2).check(Note.parse(cosigned(ONE, TWO)))
    for note, policy in ((cosigned(ONE), Witnesses(keys, 2)), (cosigned(ONE, ONE), Witnesses(twice, 2))):
        with pytest.raises(LogInvalid, match="1 of the trusted witnesses cosigned the checkpoint, it takes 2"):
            tlog.open_checkpoint(note, KeySet.of(LOG), witnesses=policy)


def test_a_cosignature_moved_to_another_time_or_text_does_not_hold() -> None:
    witness = NoteKey.of(ONE, "w0.example", COSIGNATURE)
    line = notes.cosign(Note.parse(NOTE).text, "w0.example", ONE, 1_700_000_000)
    other = tlog.sign_checkpoint(ORIGIN, 10, TREE.root, LOG)
    blob = bytearray(Note.parse(notes.attach(NOTE, [line])).signatures[1][1])
    blob[11] ^= 1

    for forged in (
        Note.parse(notes.attach(other, [line])),
        Note(Note.parse(NOTE).text, (("w0.example", bytes(blob)),)),
    ):
        with pytest.raises(LogInvalid, match=r"`w0.example` does not hold"):
            forged.signed_at(witness)


def test_the_log_signs_under_its_origin() -> None:
    other = NOTE.replace(f"\u2014 {ORIGIN}", "\u2014 another.example/tlog")

    with pytest.raises(LogInvalid, match="signed by no key"):
        tlog.open_checkpoint(other, KeySet.of(LOG))


@pytest.mark.parametrize(
    "vkey",
    ["", "x", PETER.replace("c74f20a3", "c74f20a4"), PETER[:-2], "a b" + PETER[12:], PETER.replace("+AR", "+BR")],
)
def test_a_verifier_key_that_was_not_copied_whole_is_refused(vkey: str) -> None:
    with pytest.raises(LogInvalid):
        NoteKey.parse(vkey)


def test_a_proof_is_read_as_written_and_holds() -> None:
    assert PROOF.write().startswith("c2sp.org/tlog-proof@v1\nextra eyJpZCI6ImUzIn0=\nindex 3\n")
    assert Proof.parse(PROOF.write()) == PROOF
    logged = Proof.parse(PROOF.write()).verify(KeySet.of(LOG), origin=ORIGIN)
    assert (logged.index, logged.entry, logged.head.size) == (3, {"id": "e3"}, 9)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.replace("index 3", "index 4"), "the entry is not at 4"),
        (lambda p: p.replace("index 3", "index 03"), "needs an index line"),
        (lambda p: p.replace("ImUzIn0=", "ImU0In0="), "the entry is not at 3"),
        (lambda p: p.replace("extra eyJpZCI6ImUzIn0=\n", ""), "does not bring the entry"),
        (lambda p: p.replace("\n9\n", "\n8\n"), "does not hold"),
        (lambda p: p.replace("@v1", "@v2"), "this is not a"),
        (lambda p: p.replace("extra eyJ", "extra eyK"), "the entry is not at 3"),
        (lambda p: p.partition("\n\n")[0], "not a signed note"),
        (lambda p: p + "x", "not a signed note"),
    ],
)
def test_a_spoilt_proof_is_refused(spoil, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LogInvalid, match=says):
        Proof.parse(spoil(PROOF.write())).verify(KeySet.of(LOG), origin=ORIGIN)


def test_the_proof_of_another_log_is_refused() -> None:
    with pytest.raises(LogInvalid, match=r"is of the log `registry.example/tlog`, not of `other.example/tlog`"):
        PROOF.verify(KeySet.of(LOG), origin="other.example/tlog")


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))), st.data())
def test_nothing_but_a_refusal_leaves_a_parser(noise: str, data: st.DataObject) -> None:
    whole = PROOF.write()
    cut = data.draw(st.integers(0, len(whole)))
    for text in (noise, whole[:cut] + noise + whole[cut:], whole[:cut] + noise, noise + whole[cut:]):
        for parse in (Note.parse, NoteKey.parse, lambda t: tlog.open_checkpoint(t, KeySet.of(LOG)),
                      lambda t: Proof.parse(t).verify(KeySet.of(LOG), origin=ORIGIN)):  # fmt: skip
            try:
                parse(text)
            except LogInvalid:
                continue


def test_leaves_are_apart_from_nodes() -> None:
    left, right = leaves_of(2)
    assert tlog.leaf_hash(left + right) != tlog.node_hash(left, right)
