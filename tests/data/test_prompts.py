import pytest

from mmflow.data.prompts import PromptItem, read_prompts


def test_a_literal_prompt():
    assert read_prompts("  a red circle ") == (PromptItem("a red circle"),)
    assert read_prompts("a cat. And a dog") == (PromptItem("a cat. And a dog"),)
    assert read_prompts("two lines\nending in .txt")[0].prompt == "two lines\nending in .txt"


def test_text_file_has_one_prompt_per_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red circle\r\n\r\n  一只猫  \n".encode())
    assert read_prompts(str(path)) == (PromptItem("a red circle"), PromptItem("一只猫"))


def test_jsonl_with_options(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "a cat", "seed": 3, "width": 64, "height": 32, "frames": 8, "num_steps": 20}\n\n'
        '{"prompt": "a dog", "negative_prompt": "blur", "guidance_scale": 5, "seed": null}\n'
    )
    first, second = read_prompts(str(path))
    assert first == PromptItem("a cat", seed=3, width=64, height=32, frames=8, num_steps=20)
    assert second == PromptItem("a dog", negative_prompt="blur", guidance_scale=5.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: not JSON"),
        ('"a cat"', r"line 2: expected an object"),
        ('{"seed": 1}', r"line 2: the key 'prompt' is missing"),
        ('{"prompt": null}', r"line 2: the key 'prompt' is missing"),
        ('{"prompt": "a", "sed": 1}', r"line 2: unknown key 'sed'. Legal keys: prompt, seed, width, height, frames"),
        ('{"prompt": 7}', r"line 2: prompt must be a text, got 7"),
        ('{"prompt": "a", "seed": "1"}', r"line 2: seed must be a whole number >= 0, got '1'"),
        ('{"prompt": "a", "seed": -1}', r"line 2: seed must be a whole number >= 0"),
        ('{"prompt": "a", "frames": 0}', r"line 2: frames must be a whole number >= 1"),
        ('{"prompt": "a", "width": 64.5}', r"line 2: width must be a whole number"),
        ('{"prompt": "a", "height": true}', r"line 2: height must be a whole number"),
        ('{"prompt": "a", "guidance_scale": NaN}', r"line 2: guidance_scale must be a finite number"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(str(path))
    assert str(path) in str(caught.value)


def test_files_that_are_missing_empty_or_no_text(tmp_path):
    for name in ("none.txt", "none.jsonl"):
        with pytest.raises(ValueError, match=rf"{name}: no such file"):
            read_prompts(str(tmp_path / name))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty\.txt: holds no prompt"):
        read_prompts(str(tmp_path / "empty.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"latin\.txt: cannot be read as UTF-8"):
        read_prompts(str(tmp_path / "latin.txt"))
    with pytest.raises(ValueError, match="the prompt is empty"):
        read_prompts(" ")
