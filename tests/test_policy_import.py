"""Policies out of the taxonomies of other guards: rules to edit, and nothing silently dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from safeguard_sdk import Bundle, Policy, PolicyError
from safeguard_sdk.cli import app
from safeguard_sdk.importing import READERS, import_policy
from safeguard_sdk.importing.taxonomy import FOLDER, Taxonomy
from safeguard_sdk.policy_review import review_policy
from training.datasets.llavaguard import DEFAULT_POLICY

LLAMA_GUARD_PROMPT = """\
Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy.

<BEGIN UNSAFE CONTENT CATEGORIES>
S1: Violent Crimes.
S2: Horses.
No horses, and nobody who rides one.
S3: Defamation.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>"""


def write(path: Path, text: object) -> Path:
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


# What is published.

@pytest.mark.parametrize("guard", READERS)
def test_every_taxonomy_becomes_a_policy_that_nano_reads_without_a_warning(guard):
    imported = import_policy(guard)
    bundle = Bundle.embedded()
    tokenizer = bundle.read_tokenizer()
    findings = review_policy(imported.policy, lambda text: len(tokenizer.encode(text).ids), bundle.max_policy_tokens)
    assert [str(finding) for finding in findings if "which rule" not in finding.message] == []
    assert Policy.from_yaml(imported.to_yaml()).sha256 == imported.policy.sha256


@pytest.mark.parametrize("guard, categories, rules", [
    ("llavaguard", 9, 9), ("llama-guard", 14, 10), ("shieldgemma", 3, 3), ("openai", 13, 13), ("nemotron", 23, 15)])
def test_every_category_has_a_rule_or_a_reason(guard, categories, rules):
    imported = import_policy(guard)
    assert len(imported.policy.rules) == rules and len(imported.left_out) == categories - rules
    assert all(why.strip() for why in imported.left_out.values())
    for name in imported.left_out:
        assert name in imported.to_yaml()  # as a comment


def test_every_risk_that_air_benchs_file_names_is_known():
    taxonomy = Taxonomy.read("airbench")
    assert sum(len(category.leaves) for category in taxonomy.categories.values()) == 312
    assert len(taxonomy.categories["14.3940"].leaves) == 60 and len(taxonomy.categories["15.4142"].leaves) == 72
    for category in taxonomy.categories.values():
        assert bool(category.rule) != bool(category.no_photo), category.key
        assert bool(category.rule) == any(category.leaves.values()), category.key


def test_a_taxonomys_file_has_no_key_that_is_not_read():
    for file in FOLDER.glob("*.yaml"):
        for key, entry in yaml.safe_load(file.read_text(encoding="utf-8"))["categories"].items():
            assert set(entry) <= {"name", "rule", "no_photo", "leaves", "combine"}, (file.name, key)
            assert set(entry.get("rule", {})) <= {"id", "title", "forbids", "allows"}, (file.name, key)


# Files.

def test_a_policy_of_llavaguard_keeps_its_words(tmp_path):
    policy = import_policy("llavaguard", write(tmp_path / "default.txt", DEFAULT_POLICY)).policy
    animals = next(rule for rule in policy.rules if rule.id == "animal-cruelty")
    assert animals.forbids == ("content that could encourage people to harm animals",
                               "content that romanticizes or condones harming animals", "explicit animal cruelty")
    assert animals.allows == ("content that provides general information regarding animal cruelty",)
    assert len(policy.rules) == 9 and policy.name == "default"


def test_the_whole_prompt_of_llavaguard_is_read_like_its_policy(tmp_path):
    from safeguard_sdk.prompt import PROMPTS
    style = PROMPTS["llavaguard"]
    prompt = write(tmp_path / "default.txt", style.prefix(DEFAULT_POLICY) + "<image>" + style.suffix)
    policy = import_policy("llavaguard", prompt).policy
    assert policy.sha256 == import_policy("llavaguard", write(tmp_path / "a.txt", DEFAULT_POLICY)).policy.sha256


def test_a_category_that_llavaguard_declares_allowed_or_forbidden_becomes_so(tmp_path):
    text = ("O1: Hate: \nCategory O1 is declared as non-violating. Therefore, we do not provide any restrictions for "
            "this category and allow any content of this category e.g.\n - Contain hate.\n \n\n"
            "O2: Violence: \nCategory O2 is declared as sensitive. Therefore, we do not permit any content related to "
            "this category e.g.\n - Contain war.")
    hate, violence = import_policy("llavaguard", write(tmp_path / "mine.txt", text)).policy.rules
    assert hate.forbids == () and hate.allows == ("any content of this category: Hate", "hate")
    assert violence.allows == () and violence.forbids == ("any content of this category: Violence", "war")


def test_a_prompt_of_llama_guard_gives_rules_by_name_and_own_categories_in_their_own_words(tmp_path):
    imported = import_policy("llama-guard", write(tmp_path / "prompt.txt", LLAMA_GUARD_PROMPT))
    assert [rule.id for rule in imported.policy.rules] == ["violent-crimes", "horses"]
    assert imported.policy.rules[1].text == "No horses, and nobody who rides one."
    assert list(imported.left_out) == ["S5 Defamation"]


def test_a_list_of_nemotrons_categories_gives_theirs_alone(tmp_path):
    imported = import_policy("nemotron", write(tmp_path / "taxonomy.json", ["Violence", "Malware", "Profanity"]))
    assert [rule.id for rule in imported.policy.rules] == ["violence", "profanity"] and list(imported.left_out) == [
        "S17 Malware"]


def test_policies_of_shieldgemma_stay_in_their_own_words(tmp_path):
    words = "No Horses: The image shall not contain horses."
    for document in ({"horses": words}, {"policy_definitions": {"horses": words}, "image_seq_length": 256}):
        (rule,) = import_policy("shieldgemma", write(tmp_path / "policies.json", document)).policy.rules
        assert (rule.id, rule.text) == ("horses", words)


def test_a_response_of_the_moderation_api_names_its_categories(tmp_path):
    response = {"id": "modr-1", "results": [{"categories": {"violence": False, "hate/threatening": True}}]}
    policy = import_policy("openai", write(tmp_path / "answer.json", response)).policy
    assert [rule.id for rule in policy.rules] == ["violence", "hate-threatening"]


def test_a_part_of_air_bench_gives_rules_of_the_risks_it_names(tmp_path):
    part = {"3": {"name": "Violence & Extremism", "total": 3, "subcategories": {
        "3.11": {"name": "Weapon Usage & Development", "items": [
            {"idx": "3.11.17", "name": "Guns"}, {"idx": "3.11.19", "name": "Bioweapons/Viruses/Gain-of-function"}]}}}}
    imported = import_policy("airbench", write(tmp_path / "risk_mapping.json", part))
    (rule,) = imported.policy.rules
    assert rule.forbids == ("guns",)
    assert list(imported.left_out) == ["3.11 Weapon Usage & Development, Bioweapons/Viruses/Gain-of-function"]


@pytest.mark.parametrize("guard, content, message", [
    ("llavaguard", "Be nice.", "stands before the first category"),
    ("llavaguard", "O1: Hate: \nShould not:\n- Contain hate.\nOr else.", "line 4 of the policy: 'Or else.' is neither"),
    ("llama-guard", "S1: Violent Crims.", "no category 'S1: Violent Crims' is known; did you mean 'violent crimes'"),
    ("llama-guard", "S1: Defamation.", "names nothing that a photo can break"),
    ("nemotron", ["Violence", "Horses"], "no category 'S2: Horses' is known"),
    ("shieldgemma", ["No guns"], "is no JSON object of keys and texts"),
    ("shieldgemma", "{", "is no JSON"),
    ("openai", {"results": []}, "is neither a response with results"),
    ("openai", [["violence"]], "no category \"['violence']\" is known"),
    ("openai", "[" * 100_000, "is no JSON"),
    ("openai", ["violence/graphical"], "no category 'violence/graphical' is known"),
    ("airbench", {"1": {"name": "x"}}, "has not the form of risk_mapping.json"),
    ("airbench", {"3": {"subcategories": {"3.12": {"name": "Military and Warfare", "items": [{"name": "Horses"}]}}}},
     "no category '3.12 Military and Warfare, Horses' is known"),
    ("airbench", {"3": {"subcategories": {"3.12": {"name": "Military and Warfare", "items": [{"name": ["x"]}]}}}},
     "no category"),
])
def test_what_is_not_known_is_an_error_in_one_line_and_not_dropped(tmp_path, guard, content, message):
    with pytest.raises(PolicyError) as error:
        import_policy(guard, write(tmp_path / "file", content))
    assert message in str(error.value) and str(tmp_path / "file") in str(error.value) and "\n" not in str(error.value)


# The command.

def test_the_command_prints_a_policy_to_edit_and_says_what_it_left_out(tmp_path):
    answer = CliRunner().invoke(app, ["policy", "import", "--from", "llama-guard"])
    assert answer.exit_code == 0 and answer.stderr.startswith("10 rules of Llama Guard 3 and 4") \
        and answer.stderr.endswith("4 left out, see its comments\n")
    policy = write(tmp_path / "shop.yaml", answer.stdout)
    assert CliRunner().invoke(app, ["policy", "check", str(policy)]).exit_code == 0


@pytest.mark.parametrize("arguments", [["--from", "llamaguard"], ["--from", "openai", "/nowhere.json"]])
def test_a_guard_or_a_file_that_is_not_there_is_one_line_and_status_2(arguments):
    answer = CliRunner().invoke(app, ["policy", "import", *arguments])
    assert answer.exit_code == 2 and answer.stdout == "" and answer.stderr.count("\n") == 1
