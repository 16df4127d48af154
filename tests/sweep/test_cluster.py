"""What `robusweep run --address --runtime-env` takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from robusweep.errors import RecipeError, UsageError
from robusweep.sweep.cluster import FIELDS, Cluster, cluster_at


def test_a_runtime_environment_is_read_from_yaml_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('pip: [s3fs]\nenv_vars: {ROBUSWEEP_DATA: /data, HF_HUB_OFFLINE: "1"}\n')
    (tmp_path / "b.json").write_text(
        '{"pip": ["s3fs"], "env_vars": {"ROBUSWEEP_DATA": "/data", "HF_HUB_OFFLINE": "1"}}'
    )
    found = [cluster_at("auto", tmp_path / name, "ray") for name in ("a.yaml", "b.json")]
    assert found[0] == found[1]
    assert found[0].runtime_env["env_vars"] == {"ROBUSWEEP_DATA": "/data", "HF_HUB_OFFLINE": "1"}
    assert str(found[0]) == "Ray at auto"
    assert cluster_at(None, None, "local") == Cluster()


def test_every_field_is_one_of_rays() -> None:
    from ray.runtime_env import RuntimeEnv

    assert set(FIELDS) <= RuntimeEnv.known_fields


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("env_var: {A: b}\n", "env.yaml:1: env_var: unknown key .*did you mean 'env_vars'"),
        ("pip: [s3fs]\nenv_vars: {A: 1}\n", "env.yaml:2: env_vars: .*quote numbers"),
        ("- pip\n", "expected a mapping"),
        ("pip: [\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_runtime_environment_is_refused_where_it_is_wrong(
    text: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "env.yaml").write_text(text)
    with pytest.raises(RecipeError, match=f"(?s){says}"):
        cluster_at("auto", tmp_path / "env.yaml", "ray")


def test_a_missing_file_and_another_executor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        cluster_at(None, tmp_path / "none.yaml", "ray")
    with pytest.raises(UsageError, match="--address is of Ray"):
        cluster_at("auto", None, "local")
    with pytest.raises(UsageError, match="--runtime-env is of Ray"):
        cluster_at(None, tmp_path / "none.yaml", "local")
