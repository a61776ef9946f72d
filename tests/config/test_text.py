"""Text in configurations stays text, and mistakes in YAML are one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from adastate.config.compose import compose
from adastate.config.schema import PLAIN, ConfigError

WORDS = ("2026-11-29", "007", "1_000", "1e3", "off", "yes", "../x/..", "~/x", "@home", "0x1f", "12:30:45", ".5", "a#b")
NEEDS_QUOTES = ("a: b", "a #b", "#b", "[x", "{x", "- x", "*x", "&x")
FILES = [Path("conf/base.yaml"), Path("conf/sizes/tiny.yaml"), Path("conf/stages/distill.yaml")]


@pytest.mark.parametrize("word", [*(w for w in WORDS if w != "@home"), "x"])
def test_text_of_a_file_is_taken_as_it_is_written(word: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"run: {{dir: first}}\nteacher:\n  negative_prompt: {word}\n")
    (tmp_path / "b.yaml").write_text(f"run:\n  dir: {word}\nmodel:\n  init_args: {{out: {word}}}\n")
    config = compose([*FILES, tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert config.variables["run"]["dir"] == config.variables["teacher"]["negative_prompt"] == word
    assert config.lightning["model"]["init_args"]["out"] == word
    assert config.lightning["trainer"]["default_root_dir"] == f"{word}/distill"


@pytest.mark.parametrize("word", [*WORDS, *NEEDS_QUOTES])
def test_text_of_an_override_is_taken_as_it_is_written(word: str) -> None:
    if word in ("[x", "{x"):
        with pytest.raises(ConfigError, match="is not valid YAML"):
            compose(FILES, [f"run.dir={word}"])
        return
    config = compose(FILES, [f"run.dir={word}"])
    assert config.variables["run"]["dir"] == word


def test_quotes_are_taken_off_and_null_stays_null(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run: {dir: '007', stage: \"off\"}\ncritic: {weights: null}\n")
    config = compose([*FILES, tmp_path / "a.yaml"], ["teacher.weights=null", "codec.init_args.weights='2026-11-29'"])
    run = config.variables["run"]
    assert (run["dir"], run["stage"], config.variables["codec"]["init_args"]["weights"]) == (
        "007",
        "off",
        "2026-11-29",
    )
    assert config.variables["teacher"]["weights"] is None and config.variables["critic"]["weights"] is None


def test_prompts_of_a_list_are_text_each(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("preview:\n  prompts:\n  - 1980\n  - off\n  - 2026-11-29\n  - a: b\n")
    with pytest.raises(ConfigError):
        compose([*FILES, tmp_path / "a.yaml"], ["preview.promts=1"])
    with pytest.raises(ConfigError, match=r"a\.yaml, line 2: .* put quotes around text with a colon in it"):
        compose([*FILES, tmp_path / "a.yaml"])
    (tmp_path / "a.yaml").write_text("preview:\n  prompts:\n  - 1980\n  - off\n  - 2026-11-29\n  - 'a: b'\n")
    found = compose([*FILES, tmp_path / "a.yaml"]).variables["preview"]["prompts"]
    assert found == ["1980", "off", "2026-11-29", "a: b"]


def test_what_is_written_below_is_forgotten_where_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run: {dir: 007}\n")
    config = compose([*FILES, tmp_path / "a.yaml"], ["run.dir=a"])
    assert config.variables["run"]["dir"] == "a"


def test_numbers_stay_numbers() -> None:
    config = compose(FILES, ["run.seed=7", "size.width=0x80", "run.iterations=1_000"])
    assert config.variables["run"]["seed"] == 7 and config.variables["run"]["iterations"] == 1000
    assert config.variables["size"]["width"] == 128


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("run.iteratons=5", "run has no 'iteratons'; did you mean 'iterations'"),
        ("rollout.frame=5", "rollout has no 'frame'; did you mean 'frames'"),
        ("teacher.guidence=5", "teacher has no 'guidence'; did you mean 'guidance'"),
        ("critic.weight=5", "critic has no 'weight'; did you mean 'weights'"),
        ("precision.compile=true", "precision has no 'compile'; did you mean 'compiled'"),
        ("training.bach=5", "training has no 'bach'; did you mean 'batch'"),
        ("training.init.step=5", "training.init has no 'step'; did you mean 'steps'"),
        ("preview.evry=5", "preview has no 'evry'; did you mean 'every'"),
        ("run=5", "run has keys of its own"),
    ],
)
def test_misspelt_keys_of_the_variables_are_told(override: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--{override}: {told}"):
        compose(FILES, [override])
    key, _, value = override.partition("=")
    nested = "".join(f"{'  ' * i}{part}:\n" for i, part in enumerate(key.split(".")))
    (tmp_path / "a.yaml").write_text(f"{nested[:-1]} {value}\n")
    with pytest.raises(ConfigError, match=rf"a\.yaml, line {nested.count(':')}: {told}"):
        compose([*FILES, tmp_path / "a.yaml"])


def test_the_schema_knows_every_key_of_conf_and_has_no_other_block() -> None:
    for size in ("tiny", "wan_1_3b", "flight"):
        found = compose([FILES[0], Path(f"conf/sizes/{size}.yaml")]).variables
        assert {name for name in found if name in PLAIN} == {*PLAIN}


def test_yaml_errors_are_one_sentence_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run:\n  dir: a\n dir: b\n")
    with pytest.raises(ConfigError, match=r"a\.yaml, line 3: this is not valid YAML") as told:
        compose([tmp_path / "a.yaml"])
    assert "\n" not in str(told.value) and len(str(told.value)) < 300
    (tmp_path / "b.yaml").write_bytes(b"run: {dir: caf\xe9}\n")
    with pytest.raises(ConfigError, match=r"b\.yaml is not UTF-8 text \(byte 14\): save it as UTF-8"):
        compose([tmp_path / "b.yaml"])


def test_a_file_that_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run: {dir: a}\n", encoding="utf-8-sig")
    assert compose([tmp_path / "a.yaml"]).variables["run"] == {"dir": "a"}
