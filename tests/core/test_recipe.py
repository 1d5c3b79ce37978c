from __future__ import annotations

from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.core.plan import plan
from danlu.core.recipe import bundled_recipes, inputs_of, load_recipe
from danlu.core.run import run_recipe
from danlu.core.store import Store

GOOD = """\
name: toy
budget: 100 steps
stages:
  report:
    use: tests.core.toys:count
    corpus: $text
    budget: 40%
  text:
    use: tests.core.toys:source
    lines: 4
"""


def write(tmp_path: Path, text: str, name: str = "toy.yaml") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_stages_are_ordered_and_shares_resolved(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert list(recipe.nodes) == ["text", "report"]
    assert str(recipe.nodes["report"].config.budget) == "40 steps"  # type: ignore[attr-defined]
    assert recipe.needed_for(["text"]) == ["text"]


def test_shares_without_a_budget_of_the_recipe_are_of_the_stages_own(tmp_path: Path) -> None:
    text = "name: alone\nstages:\n  more:\n    use: compress.recover\n    model: m\n    tokens: t\n    budget: 30s\n"
    config = load_recipe(write(tmp_path, text)).nodes["more"].config
    assert (str(config.budget), str(config.validate_every)) == ("30s", "6s")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lines: 4", "lnes: 4", 'toy.yaml:10: stage "text" has no key "lnes". did you mean "lines"'),
        ("lines: 4", "lines: many", 'toy.yaml:10: stage "text", lines: Input should be a valid integer'),
        ("budget: 40%", "budget: soon", 'toy.yaml:7: stage "report", budget: "soon" is no budget'),
        ("budget: 100 steps", "bugdet: 1m", 'toy.yaml:2: unknown key "bugdet". did you mean "budget"'),
        ("budget: 100 steps", "budget: 10%", "toy.yaml:2: the budget of a recipe cannot be a share"),
        ("budget: 100 steps\n", "", 'toy.yaml:6: budget of stage "report" is 40%, but the recipe has no budget'),
        ("corpus: $text", "corpus: $txt", 'toy.yaml:6: stage "report" takes $txt, and there is no such stage'),
        ("    corpus: $text\n", "", 'toy.yaml:4: stage "report" needs the input "corpus"'),
        ("corpus: $text", "corpus: $report", 'toy.yaml:6: corpus of stage "report" takes a corpus, and $report is a'),
        ("corpus: $text", "corpus: [1]", 'toy.yaml:6: corpus of stage "report" must be $STAGE'),
        ("corpus: $text", "corpus: $text\n    extra: $report", "need each other in a circle"),
        ("use: tests.core.toys:source", "use: data.prepar", 'toy.yaml:9: there is no stage "data.prepar"'),
        ("use: tests.core.toys:source", "use: no.such:thing", "cannot be imported"),
        ("    use: tests.core.toys:source\n", "", 'stage "text" needs "use:"'),
        ("stages:", "stages: [", "this is not YAML"),
        ("use: tests.core.toys:source", 'use: ":source"', "toy.yaml:9: the stage"),
        ("  text:\n", "  two words:\n", 'toy.yaml:8: "two words" cannot be a name'),
        ("name: toy", "name: a/b", 'toy.yaml:1: "a/b" cannot be a name'),
        ("budget: 100 steps", "5: 100 steps", 'toy.yaml:2: unknown key "5"'),
        ("budget: 100 steps", "budget: 100 steps\nserve: 5", 'toy.yaml:3: serve: there is no stage "5"'),
        ("budget: 100 steps", "budget: 100 steps\nserve: text", 'serve: "text" is a corpus, and a model is needed'),
        ("budget: 100 steps", "budget: 1m\nextends: no.yaml", "toy.yaml:3: extends: there is no recipe file no.yaml"),
        ("lines: 4", "lines: 4\n    lines: 5", 'toy.yaml:11: "lines" is there twice'),
        ("lines: 4", "lines: 4\n    may_fail: 4", 'toy.yaml:11: may_fail of stage "text" is true or false'),
    ],
)
def test_each_mistake_is_one_sentence_with_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe = load_recipe(path, {"text.lines": "9", "report.steps": 2}, budget="10 steps")
    assert recipe.nodes["text"].config.lines == 9  # type: ignore[attr-defined]
    assert str(recipe.nodes["report"].config.budget) == "4 steps"  # type: ignore[attr-defined]
    for overrides, message in (
        ({"txt.lines": "1"}, 'no stage "txt". did you mean "text"'),
        ({"text.lnes": "1"}, '--set text.lnes: stage "text" has no key "lnes"'),
        ({"text": "1"}, "which key of the stage"),
        ({"text.lines.more": "1"}, '--set text.lines.more: lines is "4", not a mapping'),
    ):
        with pytest.raises(UserError) as caught:
            load_recipe(path, overrides)
        assert message in str(caught.value)


def test_extends_merges_and_remembers_where_each_value_came_from(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "base.yaml")
    child = write(tmp_path, "name: child\nextends: base.yaml\nstages:\n  text:\n    lines: 7\n", "child.yaml")
    recipe = load_recipe(child)
    assert recipe.name == "child" and recipe.nodes["text"].config.lines == 7  # type: ignore[attr-defined]
    write(tmp_path, GOOD.replace("lines: 4", "lnes: 4"), "base.yaml")
    with pytest.raises(UserError, match=r"base[.]yaml:10"):
        load_recipe(child)
    write(tmp_path, "extends: child.yaml", "base.yaml")
    with pytest.raises(UserError, match="circle"):
        load_recipe(child)


def test_null_removes_what_a_base_recipe_has(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "base.yaml")
    recipe = load_recipe(write(tmp_path, "extends: base.yaml\nstages:\n  report: null\n", "child.yaml"))
    assert list(recipe.nodes) == ["text"]


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"quickstart"):
        load_recipe("quickstrat")
    with pytest.raises(UserError, match="no recipe file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="a recipe is a mapping"):
        load_recipe(write(tmp_path, "- 1\n"))
    with pytest.raises(UserError, match="a recipe needs stages"):
        load_recipe(write(tmp_path, "name: x\n"))


@pytest.mark.parametrize("name", list(bundled_recipes()))
def test_every_bundled_recipe_is_valid(name: str) -> None:
    recipe = load_recipe(name, dict.fromkeys(inputs_of(name), "mine"))
    assert recipe.name == name and recipe.description


INPUTS = """
name: with-inputs
inputs:
  text:
  model: kept
stages:
  score:
    use: evaluate.report
    model: $model
    corpus: $text
"""


def test_inputs_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(INPUTS)
    node = load_recipe(file, {"text": "my-text"}).nodes["score"]
    assert node.inputs == {"model": "kept", "corpus": "my-text"} and not node.depends_on
    assert load_recipe(file, {"text": "t", "model": "other@best"}).nodes["score"].inputs["model"] == "other@best"
    with pytest.raises(UserError, match=r'r.yaml:4: the recipe needs to know its "text"') as error:
        load_recipe(file)
    assert "--set text=" in str(error.value.hint)
    file.write_text(INPUTS.replace("  score:", "  text:"))
    with pytest.raises(UserError, match='"text" is an input and a stage'):
        load_recipe(file, {"text": "t"})


def test_an_input_that_is_a_list(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("inputs: {extra: []}\nstages:\n  blend: {use: data.mix, corpora: [books, $extra]}\n")
    assert inputs_of(file) == []
    assert load_recipe(file).nodes["blend"].inputs == {"corpora.books": "books"}
    assert set(load_recipe(file, {"extra": "[a, b]"}).nodes["blend"].inputs.values()) == {"a", "b", "books"}
    assert set(load_recipe(file, {"extra": "a"}).nodes["blend"].inputs.values()) == {"a", "books"}


def test_the_plan_says_why(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    path = write(tmp_path, GOOD)

    def actions(**overrides: str) -> list[tuple[str, str]]:
        steps = plan(load_recipe(path, {k.replace("_", "."): v for k, v in overrides.items()}), store)
        return [(step.action, step.reason) for step in steps]

    assert actions() == [("build", "not built yet")] * 2
    run_recipe(load_recipe(path), store)
    assert actions() == [("cached", "")] * 2
    assert actions(text_lines="5") == [("build", "lines: 4 -> 5"), ("build", "corpus has changed")]
    assert actions(report_steps="6") == [("cached", ""), ("build", "steps: 5 -> 6")]


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "input.txt").write_text("one")
    recipe = load_recipe(write(tmp_path, GOOD), {"text.path": str(tmp_path / "input.txt")})
    run_recipe(recipe, store)
    (tmp_path / "input.txt").write_text("two")
    assert [(s.action, s.reason) for s in plan(recipe, store)] == [
        ("build", "the source has changed"),
        ("build", "corpus has changed"),
    ]


def test_an_input_from_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run_recipe(load_recipe(write(tmp_path, GOOD)), store)
    text = "name: next\nstages:\n  again:\n    use: tests.core.toys:count\n    corpus: text\n    steps: 1\n"
    recipe = load_recipe(write(tmp_path, text, "next.yaml"))
    result = run_recipe(recipe, store)
    assert result.artifacts["again"].manifest.parents == {"corpus": store.resolve("toy.text").id}
    with pytest.raises(UserError, match="is a report, and a corpus is needed"):
        plan(load_recipe(tmp_path / "next.yaml", {"again.corpus": "toy.report"}), store)


def test_names_may_be_chinese_or_numbers(tmp_path: Path) -> None:
    text = GOOD.replace("name: toy", "name: 诗").replace("  text:", "  7:").replace("$text", "$7")
    path = write(tmp_path, text.replace("  report:", "  报告:"))
    made = run_recipe(load_recipe(path, {"报告.steps": "1"}), Store(tmp_path / "s")).artifacts
    assert list(made) == ["7", "报告"] and Store(tmp_path / "s").resolve("诗.报告").id == made["报告"].id


def test_null_leaves_an_optional_input_out(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), {"report.extra": None})
    assert recipe.nodes["report"].inputs == {"corpus": "$text"}


def test_a_budget_that_would_change_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no stage of .toy. takes a share"):
        load_recipe(write(tmp_path, GOOD.replace("40%", "5 steps")), budget="1m")


def test_overrides_of_a_recipe_without_stages(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nstages: [a]\n")
    with pytest.raises(UserError, match=r"no stage .a."):
        load_recipe(path, {"a.b": "1"})
    with pytest.raises(UserError, match="--size"):
        load_recipe(path, size="nano")
