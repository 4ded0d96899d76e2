"""The pytest plugin, as an application's own tests use it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CONFIG = """
embedding:
  mode: mlx
  model_name: builtin
  dimension: 128
"""
APP = """
from chroma_mlx import EmbeddingRouter, MLXEmbeddingFunction

def make_router():
    return EmbeddingRouter()

def remember(client, texts):
    collection = make_router().collection(client, "memories")
    collection.upsert([{"id": str(place), "text": text} for place, text in enumerate(texts)])
    return collection
"""
TESTS = """
import os
import sys

import chromadb
import pytest
from chromadb.config import Settings

import app

def test_before_the_fixture_the_mode_is_mlx():
    assert app.make_router().mode == "mlx"
    assert app.make_router().embedding_function.name() == "chroma_mlx"

def test_with_the_fixture_no_model_is_used(chroma_mlx_mock):
    assert app.make_router().mode == chroma_mlx_mock.mode == "mock"
    collection = app.remember(
        chromadb.EphemeralClient(Settings(anonymized_telemetry=False)), ["the Moon", "fresh bread"]
    )
    assert [hit.id for hit in collection.query("bread", n_results=1)] == ["1"]
    assert collection.get(ids=["0"], include=["embeddings"])["embeddings"].shape == (1, 128)
    assert (chroma_mlx_mock.embed(["the Moon"]) == app.make_router().embed(["the Moon"])).all()
    assert not [name for name in sys.modules if name.partition(".")[0] in ("mlx", "mlx_lm", "tokenizers")]

def test_after_the_fixture_the_mode_is_mlx_again():
    assert "CHROMA_MLX_MODE" not in os.environ
    assert app.make_router().mode == "mlx"

class TestClass:
    @pytest.fixture
    def router(self, chroma_mlx_mock):
        return app.make_router()

    def test_a_fixture_can_build_on_it(self, router):
        assert router.mode == "mock"
"""


def run_pytest(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the tests in `folder` as its own project, warnings being errors."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("CHROMA_MLX_", "PYTEST_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**own, "PYTHONPATH": path, "XDG_CONFIG_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def application(tmp_path: Path) -> Path:
    (tmp_path / "embedding_config.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    (tmp_path / "test_app.py").write_text(TESTS, encoding="utf-8")
    return tmp_path


def test_an_applications_tests_run_without_a_model(application: Path) -> None:
    run = run_pytest(application, "test_app.py")

    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 passed" in run.stdout


def test_the_fixture_stands_above_what_the_environment_says(application: Path) -> None:
    (application / "test_app.py").write_text(
        """
import os
import app

def test_mock(chroma_mlx_mock):
    assert app.make_router().mode == "mock"

def test_as_it_was():
    assert os.environ["CHROMA_MLX_MODE"] == "user_provided"
    assert app.make_router().config.mode == "user_provided"
""",
        encoding="utf-8",
    )
    run = run_pytest(application, CHROMA_MLX_MODE="user_provided")

    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout


def test_a_configuration_that_is_not_valid_fails_the_test_that_uses_the_fixture(application: Path) -> None:
    (application / "embedding_config.yaml").write_text("embedding:\n  modle: mlx\n", encoding="utf-8")

    run = run_pytest(application, "-k", "no_model_is_used")

    assert run.returncode == 1
    assert "ConfigError" in run.stdout
    assert "embedding.modle: unknown key. Did you mean mode?" in run.stdout


def test_the_fixture_is_listed_with_what_it_does(application: Path) -> None:
    run = run_pytest(application, "--fixtures")

    assert "chroma_mlx_mock" in run.stdout
    assert 'Mode "mock" for whatever reads its configuration during the test' in run.stdout


def test_the_plugin_is_registered_as_a_module_of_its_own() -> None:
    [entry] = entry_points(group="pytest11", name="chroma_mlx")

    assert entry.value == "pytest_chroma_mlx"


def test_loading_the_plugin_imports_neither_chroma_nor_the_package(tmp_path: Path) -> None:
    code = """
import sys
import pytest_chroma_mlx
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"chromadb", "chroma_mlx", "mlx", "numpy", "yaml"}))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "[]\n", "")


def test_a_project_that_does_not_use_the_fixture_pays_nothing_for_it(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_it():\n    assert not {'chromadb', 'chroma_mlx'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    # Other plugins of this environment may import what they like.
    run = run_pytest(tmp_path, "-p", "pytest_chroma_mlx", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

    assert run.returncode == 0, run.stdout + run.stderr


def test_a_fixture_of_a_wider_scope_has_a_mock_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(
        "import pytest\n"
        "from chroma_mlx import EmbeddingRouter\n"
        "@pytest.fixture(scope='module')\n"
        "def router(chroma_mlx_mock_session):\n"
        "    return EmbeddingRouter(model_name='builtin')\n"
        "def test_mode(router):\n"
        "    assert router.mode == 'mock'\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
