"""What can be said of a job: as keywords and as a job file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlbox.errors import InvalidInput
from mlbox.records import DivergenceRule, JobSpec
from mlbox.sdk.options import folders, read_job_file, spec_of

FILE = """
name = "mlp"
command = "python train.py 'two words'"
gpus = 0.5
memory_gb = 16
timeout_seconds = 7200
datasets = ["flights@v1"]
secrets = ["HF_TOKEN=T"]
workdir = "src"
code = "."
environment = "requirements.txt"
retry_exit_codes = [75]

[hyperparameters]
lr = 0.1
layers = [64, 32]

[[rules]]
kind = "above"
metric = "loss"
bound = 10
"""


def test_a_job_file_says_what_the_keywords_say(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(FILE)
    (tmp_path / "src").mkdir()
    command, options = read_job_file(file)
    assert spec_of(command, options) == JobSpec(
        command=("python", "train.py", "two words"),
        name="mlp",
        gpus=0.5,
        memory_gb=16,
        timeout_seconds=7200,
        datasets=("flights@v1",),
        secrets={"T": "HF_TOKEN"},
        retry_exit_codes=(75,),
        hyperparameters={"lr": "0.1", "layers": "[64, 32]"},
        rules=(DivergenceRule(kind="above", metric="loss", bound=10),),
    )
    assert folders(options) == (tmp_path, "src")
    assert options["environment"] == str(tmp_path / "requirements.txt")


def test_without_more_the_files_own_folder_is_the_code(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('command = ["python", "a b.py"]\nenvironment = "auto"')
    command, options = read_job_file(file)
    assert (command, folders(options), options["environment"]) == (("python", "a b.py"), (tmp_path, ""), "auto")


@pytest.mark.parametrize(
    ("content", "field", "says"),
    [
        ("gpu = 1", "gpu", "Did you mean gpus"),
        ("zzz = 1", "zzz", "It knows command, name"),
        ("gpus = 'all'", "gpus", "gpus cannot be used: expected `float`, got `str`"),
        ("priority = 'highest'", "priority", "invalid enum value"),
        ("command = 1", "command", "got `int`"),
        ("command = 'a \"b'", "command", "Close the quote"),
        ("gpus = ", "file", "cannot be read"),
        ("[[rules]]\nkind = 'odd'", "rules", "rules[0].kind cannot be used: invalid enum value 'odd'."),
        ("[[rules]]\nkind = 'nonfinite'\nactoin = 'stop'", "rules", "no rules[0].actoin. Did you mean action?"),
    ],
)
def test_a_wrong_job_file_is_refused_with_the_key(tmp_path: Path, content: str, field: str, says: str) -> None:
    file = tmp_path / "job.toml"
    file.write_text(content)
    with pytest.raises(InvalidInput) as caught:
        read_job_file(file)
    assert says in str(caught.value)
    assert caught.value.field == field


def test_a_wrong_keyword_or_value_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="Did you mean gpus"):
        spec_of("true", {"gpuss": 1})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(InvalidInput) as caught:
        spec_of("true", {"procs": "two"})  # type: ignore[typeddict-item]
    assert caught.value.field == "procs"


def test_the_command_runs_in_the_code_or_below_it(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    assert folders({"workdir": tmp_path / "src"}) == (tmp_path / "src", "")
    assert folders({"workdir": tmp_path / "src", "code": tmp_path}) == (tmp_path, "src")
    with pytest.raises(InvalidInput, match="is not in"):
        folders({"workdir": tmp_path, "code": tmp_path / "src"})
    with pytest.raises(InvalidInput, match="no folder"):
        folders({"workdir": tmp_path / "nothing", "code": tmp_path})
