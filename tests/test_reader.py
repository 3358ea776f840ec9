"""The reader: a policy read once for several pictures gives what one run for each picture would give."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from safeguard_sdk.engine.tags import KNOTS, knot_weights
from training.nano.reader import LOGIT_SCALE, Batch, Reader, collate, verdict_token, with_adapters

VOCABULARY, WIDTH = 64, 32
SUFFIX = [60, 61]
POLICY, LONG_POLICY = [5, 6, 7, 8, 9], [50, 40, 30, 20, 10, 11, 12, 13, 14]
CAT, OWL = ([21, 22, 23], [0.9, 0.9, 0.2]), ([24], [0.5])
NOTHING = ([], [])  # a picture in which the eye names nothing


def picture(tags: tuple[list[int], list[float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(tags[0], dtype=np.int64), np.array(tags[1], dtype=np.float32)


def pack(policy: list[int], *pictures: tuple[list[int], list[float]]) -> tuple:
    return policy, [picture(tags) for tags in pictures], [number % 2 == 0 for number in range(len(pictures))]


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)
    config._attn_implementation = "eager"
    reader = Reader(LlamaModel(config), torch.randn(2, WIDTH))
    with torch.no_grad():
        reader.probability.weight *= 20  # so that a difference shows
    return reader.eval()


def logits(reader: Reader, *packs: tuple) -> torch.Tensor:
    with torch.no_grad():
        return reader(collate(list(packs), SUFFIX))


def gradients(reader: Reader, *batches: Batch) -> dict[str, torch.Tensor]:
    reader.zero_grad()
    for batch in batches:
        torch.nn.functional.binary_cross_entropy_with_logits(reader(batch), batch.broken, reduction="sum").backward()
    return {name: parameter.grad.clone() for name, parameter in reader.named_parameters() if parameter.grad is not None}


PACKS = {"one picture": [pack(POLICY, CAT)], "several pictures": [pack(POLICY, CAT, OWL, CAT)],
         "a picture of nothing": [pack(POLICY, NOTHING, OWL)],
         "packs of other lengths": [pack(POLICY, CAT, OWL), pack(LONG_POLICY, OWL, OWL, CAT), pack(POLICY, OWL)],
         "packs in one row": [pack(POLICY, OWL), pack(LONG_POLICY, OWL, OWL, CAT, CAT), pack(POLICY[:2], CAT)]}


@pytest.mark.parametrize("packs", PACKS.values(), ids=PACKS)
def test_a_pack_gives_the_logits_of_one_run_for_each_picture(reader, packs):
    alone = torch.cat([logits(reader, (policy, [one], [False])) for policy, pictures, _ in packs for one in pictures])
    torch.testing.assert_close(logits(reader, *packs), alone, rtol=0, atol=1e-5)
    assert alone.abs().max() > 0.1  # the tolerance means something


@pytest.mark.parametrize("name", ["packs of other lengths", "packs in one row"])
def test_a_pack_gives_the_gradients_of_one_run_for_each_picture(reader, name):
    packs = PACKS[name]
    singles = [(policy, [one], [broken]) for policy, pictures, verdicts in packs
               for one, broken in zip(pictures, verdicts, strict=True)]
    together = gradients(reader, collate(packs, SUFFIX))
    apart = gradients(reader, *(collate([single], SUFFIX) for single in singles))
    assert together.keys() == apart.keys() and "probability.weight" in together
    for parameter, gradient in together.items():
        torch.testing.assert_close(gradient, apart[parameter], rtol=1e-4, atol=1e-5,
                                   msg=lambda m, parameter=parameter: f"{parameter}: {m}")


def test_a_picture_is_judged_alike_whatever_stands_before_and_behind_it(reader):
    found = [logits(reader, pack(POLICY, *pictures))[place] for pictures, place in
             (((CAT, OWL), 0), ((OWL, CAT), 1), ((OWL, OWL, CAT, OWL), 2))]
    torch.testing.assert_close(torch.stack(found), found[0].repeat(3), rtol=0, atol=1e-5)


def test_another_policy_and_another_picture_give_other_logits(reader):
    one, other_policy, other_picture = (logits(reader, p) for p in (pack(POLICY, CAT), pack([*POLICY[:-1], 3], CAT),
                                                                    pack(POLICY, OWL)))
    assert abs(one - other_policy) > 0.01 and abs(one - other_picture) > 0.01


def test_every_picture_continues_the_positions_of_the_policy():
    batch = collate([pack(POLICY, CAT, OWL)], SUFFIX)
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 7]]
    assert batch.picture.tolist() == [[0] * 5 + [1] * 5 + [2] * 3]
    assert batch.ids.tolist() == [[*POLICY, *CAT[0], *SUFFIX, *OWL[0], *SUFFIX]]


def test_the_verdict_is_read_off_the_last_token_of_each_picture():
    batch = collate([pack(POLICY, CAT, OWL), pack(POLICY, OWL)], SUFFIX)
    assert batch.verdict_at.tolist() == [[0, 9], [0, 12], [1, 7]]
    assert batch.broken.tolist() == [1.0, 0.0, 1.0]


def test_tags_whose_own_verdict_is_known_are_found_where_they_end():
    ids, probabilities = picture(CAT)
    taught = POLICY, [(ids, probabilities, np.array([0, np.nan, 1], np.float32)), picture(OWL)], [True, False]
    batch = collate([pack(POLICY, OWL), taught], SUFFIX)
    (row, start), (_, end) = batch.tag_at.tolist()
    assert batch.tag_broken.tolist() == [0, 1] and end == start + 2
    assert batch.ids[row, start:end + 1].tolist() == CAT[0]
    assert collate([pack(POLICY, CAT)], SUFFIX).tag_at.shape == (0, 2)


def test_the_verdict_on_a_tag_alone_knows_the_policy_and_nothing_of_later_tags(reader):
    def alone(policy: list[int], ids: list[int]) -> torch.Tensor:
        verdicts = np.array([1] + [np.nan] * (len(ids) - 1), np.float32)
        tags = np.array(ids), np.full(len(ids), 0.9, np.float32), verdicts
        with torch.no_grad():
            return reader.judge(collate([(policy, [tags], [True])], SUFFIX))[1]

    first = alone(POLICY, [21, 22, 23])
    torch.testing.assert_close(alone(POLICY, [21, 40, 41]), first)
    assert abs(alone(LONG_POLICY, [21, 22, 23]) - first) > 1e-3


def test_short_packs_share_a_row_and_their_verdicts_keep_the_order_of_the_packs():
    batch = collate(PACKS["packs in one row"], SUFFIX)
    assert batch.pack.tolist() == [[1] * 25, [0] * 8 + [2] * 7 + [-1] * 10]
    assert batch.verdict_at.tolist() == [[1, 7], [0, 11], [0, 14], [0, 19], [0, 24], [1, 14]]


def test_a_picture_sees_the_policy_and_itself_and_nothing_that_comes_later():
    mask = collate([pack(POLICY[:2], OWL, OWL)], SUFFIX[:1]).attention_mask(torch.float32)
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0],   # policy
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],   # first picture
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],   # second picture
        [1, 1, 0, 0, 1, 1]]


def test_only_the_tokens_of_tags_carry_a_probability():
    batch = collate([pack(POLICY, CAT, OWL), pack(LONG_POLICY, NOTHING)], SUFFIX)
    tagged = batch.knots.sum(2) > 0
    assert tagged[0].nonzero().flatten().tolist() == [5, 6, 7, 10] and not tagged[1].any()
    np.testing.assert_array_equal(batch.knots[0, 5:8].numpy(), knot_weights(np.array([0.9, 0.9, 0.2], np.float32)))
    assert batch.knots.shape[2] == len(KNOTS)


def test_the_probability_of_a_tag_counts(reader):
    sure, doubtful = (logits(reader, pack(POLICY, (OWL[0], [probability]))) for probability in (0.95, 0.15))
    assert abs(sure - doubtful) > 0.01


def test_the_verdict_head_starts_as_the_scaled_rows_of_the_verdict_tokens():
    rows = torch.randn(2, WIDTH)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=4, num_key_value_heads=2)
    head = Reader(LlamaModel(config), rows).verdict
    torch.testing.assert_close(head.weight, rows * LOGIT_SCALE)
    assert head.bias.tolist() == [0, 0]


def test_the_logit_is_that_of_unsafe_less_that_of_safe(reader):
    before = logits(reader, pack(POLICY, CAT))
    with torch.no_grad():
        reader.verdict.bias += torch.tensor([0.0, 2.0])  # safe, unsafe
    after = logits(reader, pack(POLICY, CAT))
    with torch.no_grad():
        reader.verdict.bias.zero_()
    torch.testing.assert_close(after - before, torch.tensor([2.0]))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_adapters_change_nothing_before_training_and_are_all_that_is_trained_of_the_model(reader):
    adapted = copy.deepcopy(reader)
    adapted.model = with_adapters(adapted.model, rank=2)
    torch.testing.assert_close(logits(adapted, pack(POLICY, CAT, OWL)), logits(reader, pack(POLICY, CAT, OWL)))
    trained = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 7 and all("lora_" in name for name in trained)  # A and B of 7 linear layers, twice


class Letters:
    """A tokenizer of which every letter is a token."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(letter) for letter in text]


def test_a_verdict_must_be_one_token():
    assert verdict_token(Letters(), "u") == ord("u")
    with pytest.raises(ValueError, match="verdict ' unsafe' is 7 tokens of this tokenizer, must be one"):
        verdict_token(Letters(), " unsafe")
