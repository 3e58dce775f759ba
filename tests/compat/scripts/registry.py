"""The registry as MlflowClient sees it: tags, aliases, names, search, pages, codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from people import MAJOR, kept_run, refused

client = MlflowClient()
PREFIX = f"reg{MAJOR}-"


def code_of(call: Callable[[], object]) -> str:
    """The error code with which a call is refused."""
    return str(refused(call).error_code)


Path("model").mkdir()
Path("model/MLmodel").write_text("flavors: {}\n")
run_id = kept_run("model")
source = f"runs:/{run_id}/model"

# -- models
name = f"{PREFIX}a"
model = client.create_registered_model(name, tags={"team": "ops"}, description="to see")
assert (model.name, model.description, model.tags) == (name, "to see", {"team": "ops"}), model
assert code_of(lambda: client.create_registered_model(name)) == "RESOURCE_ALREADY_EXISTS"
assert code_of(lambda: client.get_registered_model(f"{PREFIX}none")) == "RESOURCE_DOES_NOT_EXIST"
assert code_of(lambda: client.create_registered_model("")) == "INVALID_PARAMETER_VALUE"
client.update_registered_model(name, description="to see better")
client.set_registered_model_tag(name, "tier", "1")
client.delete_registered_model_tag(name, "team")
model = client.get_registered_model(name)
assert (model.description, model.tags) == ("to see better", {"tier": "1"}), model

# -- versions
first = client.create_model_version(name, source, run_id, tags={"kind": "mlp"}, description="one")
assert (str(first.version), first.status, first.current_stage, first.run_id) == ("1", "READY", "None", run_id)
second = client.create_model_version(name, f"models:/{name}/1")
assert str(second.version) == "2", second
client.update_model_version(name, "1", description="the first")
client.set_model_version_tag(name, "1", "kind", "gbm")
client.set_model_version_tag(name, "2", "kind", "mlp")
version = client.get_model_version(name, "1")
assert (version.description, version.tags, version.source) == ("the first", {"kind": "gbm"}, source), version
assert client.get_model_version_download_uri(name, "1").startswith("mlflow-artifacts:/")
assert code_of(lambda: client.get_model_version(name, "9")) == "RESOURCE_DOES_NOT_EXIST"
for bad in ("s3://bucket/model", "file:///etc", "http://elsewhere/model", "mlflow-artifacts:/models/x"):
    assert code_of(lambda bad=bad: client.create_model_version(name, bad)) == "INVALID_PARAMETER_VALUE", bad


def found(filter: str) -> list[str]:
    """The versions that match, by number."""
    return sorted(str(v.version) for v in client.search_model_versions(filter))


assert found(f"name='{name}'") == ["1", "2"]
assert found(f"run_id='{run_id}' and name='{name}'") == ["1", "2"]
assert found(f"name='{name}' and tags.kind = 'gbm'") == ["1"]
assert found(f"source_path = '{source}'") == ["1"]
assert found(f"name = '{name}' AND version_number > 1") == ["2"]
assert found(f"name LIKE '{PREFIX}%' AND tags.kind ILIKE 'MLP'") == ["2"]
assert code_of(lambda: client.search_model_versions("colour = 'red'")) == "INVALID_PARAMETER_VALUE"

# -- aliases
client.set_registered_model_alias(name, "champion", "1")
client.set_registered_model_alias(name, "champion", "2")
assert str(client.get_model_version_by_alias(name, "champion").version) == "2"
assert {k: str(v) for k, v in client.get_registered_model(name).aliases.items()} == {"champion": "2"}
assert client.get_model_version(name, "2").aliases == ["champion"]
client.delete_registered_model_alias(name, "champion")
assert code_of(lambda: client.get_model_version_by_alias(name, "champion")) in (
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
)
assert code_of(lambda: client.set_registered_model_alias(name, "v1", "1")) == "INVALID_PARAMETER_VALUE"

# -- pages, both ways
for number in range(5):
    client.create_registered_model(f"{PREFIX}page{number}")


def paged(order: str) -> list[str]:
    """Every model of the prefix, two at a time."""
    names, token = [], None
    while True:
        page = client.search_registered_models(f"name LIKE '{PREFIX}page%'", 2, [order], token)
        assert len(page) <= 2, page
        names += [model.name for model in page]
        token = page.token
        if not token:
            return names


forth = paged("name ASC")
assert forth == [f"{PREFIX}page{number}" for number in range(5)], forth
assert paged("name DESC") == forth[::-1]
assert paged("creation_timestamp DESC") == forth[::-1]

# -- names and ends
client.rename_registered_model(name, f"{PREFIX}b")
assert len(found(f"name='{PREFIX}b'")) == 2
client.delete_model_version(f"{PREFIX}b", "1")
assert found(f"name='{PREFIX}b'") == ["2"]
client.delete_registered_model(f"{PREFIX}b")
assert code_of(lambda: client.get_registered_model(f"{PREFIX}b")) == "RESOURCE_DOES_NOT_EXIST"
print("registry ok")
