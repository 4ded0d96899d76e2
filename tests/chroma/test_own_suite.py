"""Chroma's own tests, as its wheel ships them, over this package's function; see own_suite.py."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from own_suite import CALLS
from processes import environment

HERE = Path(__file__).parent
# Modules of Chroma's, what is chosen of them, how many tests of them call the function at least, how many pass.
SUITES = {
    # Apart, since it puts mocks into the classes. Not "simple_ef", a function of Chroma's tests: building it
    # from a mock fails without this package too.
    "schemas": (["utils.test_embedding_function_schemas"], "not simple_ef", 0, 40),
    "collections": (
        [
            "ef.test_ef",
            "ef.test_custom_ef",
            "configurations.test_collection_configuration",
            "property.test_collections",
        ],
        "",
        0,
        80,
    ),
    # Not "medium": Hypothesis gives up on drawing 150 documents, whatever embeds them. Not "large": it has
    # vectors only, and takes long.
    "add": (["property.test_add"], "not medium and not large", 3, 5),
    "records": (["property.test_embeddings", "property.test_filtering"], "ephemeral", 4, 22),
}


@pytest.mark.parametrize("suite", SUITES)
def test_chromas_own_tests_pass_with_this_function(suite: str, tmp_path: Path) -> None:
    modules, chosen, calling, passing = SUITES[suite]
    report, calls = tmp_path / "report.xml", tmp_path / "calls.json"
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", f"--rootdir={tmp_path}", f"--junitxml={report}"]
    command += ["-q", "-p", "own_suite", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-k", chosen]
    variables = environment(CHROMA_RUST_BINDINGS_TEST_ONLY="1", PROPERTY_TESTING_PRESET="fast")
    variables["OPENBLAS_NUM_THREADS"] = "1"  # one short text a pass: more threads would mostly wait for each other
    variables |= {CALLS: str(calls), "PYTHONPATH": f"{HERE}:{variables['PYTHONPATH']}"}

    done = subprocess.run(
        [*command, "--pyargs", *(f"chromadb.test.{module}" for module in modules)],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    counts = next(iter(ElementTree.parse(report).getroot().iter("testsuite")))
    ran = int(counts.attrib["tests"]) - int(counts.attrib["skipped"])
    assert ran >= passing, done.stdout
    texts_of = json.loads(calls.read_text(encoding="utf-8"))
    assert len(texts_of) >= calling, texts_of
